/**
 * Files of other kinds that people try: what they are, and the way from there.
 *
 * @module
 */

const CONVERT = 'Save it as safetensors with the tool that made it';

/** By the ending of the name. */
const KINDS: readonly (readonly [RegExp, string, string])[] = [
  [/\.(bin|pt|pth|ckpt|pkl)$/i, 'a PyTorch pickle, which can run code when it is read', CONVERT],
  [/\.onnx$/i, 'an ONNX model', CONVERT],
  [/\.tflite$/i, 'a TensorFlow Lite model', CONVERT],
  [/\.(h5|keras|pb)$/i, 'a TensorFlow model', CONVERT],
  [/\.(npz|npy)$/i, 'NumPy arrays', CONVERT],
  [/\.ggml$/i, 'a model in the format before GGUF', "Convert it with llama.cpp's scripts of its time"],
  [/\.(zip|tar|gz|tgz|zst|xz|7z)$/i, 'an archive', 'Unpack it'],
  [/\.json$/i, 'a JSON file', 'Name the folder that it lies in'],
];

/** What a file is that is no checkpoint of ours, and the remedy; null if its name does not tell. */
export function foreignKind(name: string): { kind: string; remedy: string } | null {
  const found = KINDS.find(([pattern]) => pattern.test(name));
  return found === undefined ? null : { kind: found[1], remedy: found[2] };
}
