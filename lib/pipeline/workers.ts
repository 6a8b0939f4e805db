/**
 * Several pieces of work under way at once: one is read or written while another one is computed.
 *
 * @module
 */

/**
 * Does the work of a stream, `slots` pieces at a time. The first failure aborts `stop`, which ends the others; when all have
 * ended it is thrown.
 *
 * @param begin - Makes what does one piece after the other, with memory of its own.
 */
export async function inParallel<T>(
  pieces: AsyncGenerator<T>,
  slots: number,
  stop: AbortController,
  begin: () => (piece: T) => Promise<void>,
): Promise<void> {
  const worker = async () => {
    try {
      const work = begin();
      for await (const piece of pieces) await work(piece);
    } catch (error) {
      stop.abort(error);
      throw error;
    }
  };
  const results = await Promise.allSettled(Array.from({ length: slots }, worker));
  if (results.some(({ status }) => status === 'rejected')) throw stop.signal.reason;
}
