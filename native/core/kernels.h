#pragma once

#include <cstddef>

#include "ops/affine/affine_kernels.h"
#include "ops/bits/bits_kernels.h"
#include "ops/blocks/blocks_kernels.h"
#include "ops/cast/cast_kernels.h"
#include "ops/codebook/codebook_kernels.h"
#include "ops/compare/compare_kernels.h"
#include "ops/decoder/decoder_kernels.h"
#include "ops/fake_quantize/fake_quantize_kernels.h"
#include "ops/hqq/hqq_kernels.h"
#include "ops/linalg/linalg_kernels.h"
#include "ops/logits/logits_kernels.h"
#include "ops/matmul/matmul_kernels.h"
#include "ops/observe/observe_kernels.h"
#include "ops/repack/repack_kernels.h"

namespace lowbit {

// Everything that one instruction set offers: one entry per operation.
struct Kernels {
  const char* name;         // the value of LOWBIT_ISA
  const char* description;  // the processor features that it needs
  bool (*supported)();
  const CastKernels* cast;
  const AffineKernels* affine;
  const CodebookKernels* codebook;
  const CompareKernels* compare;
  const DecoderKernels* decoder;
  const BlocksKernels* blocks;
  const FakeQuantizeKernels* fake_quantize;
  const ObserveKernels* observe;
  const BitsKernels* bits;
  const RepackKernels* repack;
  const LinalgKernels* linalg;
  const HqqKernels* hqq;
  const MatmulKernels* matmul;
  const LogitsKernels* logits;
};

// The tables compiled into this binary, best first; the last is always "scalar".
extern const Kernels* const kAllKernels[];
extern const std::size_t kAllKernelsCount;

// The compiled table of that name, or nullptr; it may not be supported by this processor.
const Kernels* find_kernels(const char* name);

// The table in use: the best that this processor supports, or the one that the environment variable LOWBIT_ISA names.
// Chosen once per process.
const Kernels& kernels();

// Why LOWBIT_ISA can't be obeyed (a whole sentence), or nullptr when it can or is not set. While it can't, kernels()
// is the scalar table.
const char* kernels_error();

}  // namespace lowbit
