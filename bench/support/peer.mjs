/** A module of bench/peers, or null: peers are optional, their packages are not installed with lowbit. */
export async function peer(name) {
  try {
    return await import(`../peers/${name}.mjs`);
  } catch (error) {
    console.error(`peer left out: ${name}: ${error.message.split('\n')[0]}`);
    return null;
  }
}
