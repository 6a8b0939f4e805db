/**
 * `npm run bench:gpu`: builds the CUDA module, its tests and its benchmark (scripts/gpu.sh), runs them on the first GPU of this
 * machine, and writes the benchmark's tables to bench/RESULTS-GPU.md.
 */
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.dirname(__dirname);
const results = path.join(root, 'build-gpu', 'results');
const file = path.join(root, 'bench', 'RESULTS-GPU.md');

const output = (command, args) => {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : '';
};

const query = ['--query-gpu=name,driver_version,memory.total,power.limit', '--format=csv,noheader'];
const device = output('nvidia-smi', query).split('\n')[0];
if (device === '') {
  console.error('There is no GPU here, or no NVIDIA driver: `nvidia-smi` does not list one.');
  process.exit(1);
}
const nvcc = /release ([\d.]+)/.exec(output(process.env.CUDACXX ?? 'nvcc', ['--version']))?.[1];
if (nvcc === undefined) {
  console.error("CUDA's compiler was not found: install nvcc, or set CUDACXX to its path.");
  process.exit(1);
}

// Nobody is in a hurry here: the script's limits are for machines that are lent for minutes.
const env = { ...process.env, LOWBIT_GPU_PATIENCE: process.env.LOWBIT_GPU_PATIENCE ?? '10' };
const { status } = spawnSync('bash', [path.join('scripts', 'gpu.sh'), results], { cwd: root, env, stdio: 'inherit' });
const text = ['bench.md', 'bench-gptq.md']
  .map((name) => path.join(results, name))
  .filter((tables) => fs.existsSync(tables))
  .map((tables) => fs.readFileSync(tables, 'utf8').trim())
  .join('\n\n')
  .trim();
if (text === '') {
  console.error(`The benchmark printed nothing: see ${results}.`);
  process.exit(1);
}
const { version } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
const machine = fs.readFileSync(path.join(results, 'machine.txt'), 'utf8');
const pytorch = /^PyTorch .+$/m.exec(machine)?.[0] ?? 'no PyTorch to compare with';
const summary = fs.readFileSync(path.join(results, 'summary.txt'), 'utf8').trim();
const page = `# Results on a GPU

\`npm run bench:gpu\` reproduces this page: it builds the CUDA module, tests it and measures it.

lowbit ${version}, ${device} (name, driver, memory, power limit), CUDA ${nvcc}, ${pytorch}, ${os.cpus()[0]?.model ?? 'unknown processor'},
${new Date().toISOString().slice(0, 10)}.

\`\`\`
${summary}
\`\`\`

${text}
`;
fs.writeFileSync(`${file}.new`, page);
fs.renameSync(`${file}.new`, file);
console.log(`${path.relative(root, file)} is written.`);
process.exitCode = status ?? 1;
