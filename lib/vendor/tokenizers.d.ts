/**
 * What is used of `@huggingface/tokenizers`: its own declarations import each other without file extensions, which Node's
 * resolution of types does not find. tsconfig.json points here.
 *
 * @module
 */
export class Tokenizer {
  constructor(tokenizer: object, config: object);
  encode(text: string, options?: { add_special_tokens?: boolean }): { ids: number[] };
  decode(ids: number[], options?: { skip_special_tokens?: boolean }): string;
  id_to_token(id: number): string | undefined;
  get_vocab(withAddedTokens?: boolean): Map<string, number>;
}
