export function fuzz(
  Parser: new (path: string, fileBytes: number) => { push(bytes: Uint8Array): unknown },
  seed: number,
  count: number,
): Record<string, number>;
