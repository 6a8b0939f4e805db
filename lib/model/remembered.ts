/**
 * Loading once what is wanted often.
 *
 * @module
 */

/** Something that is loaded when it is first wanted, and kept; what failed is tried again. */
export class Remembered<T> {
  private value: Promise<T> | null = null;

  constructor(private readonly load: () => Promise<T>) {}

  /** What is loaded, or about to be; null if it was not wanted yet. */
  get current(): Promise<T> | null {
    return this.value;
  }

  get(): Promise<T> {
    if (this.value === null) {
      const value = this.load();
      value.catch(() => {
        this.value = null;
      });
      this.value = value;
    }
    return this.value;
  }
}
