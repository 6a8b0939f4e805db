#pragma once

#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/logits/logits_kernels.h"

namespace lowbit {

// What a position of a text has to say about the model.
struct LogitStatistics {
  double nats;            // log Σ exp(logits) − logits[target]
  double reference_nats;  // the same of the reference
  double kl_divergence;   // Σ p · (log p − log q), p the reference's probabilities, q the model's; not negative
  double max_difference;  // max |reference − logits|
};

// Statistics and the largest logits (the first of equal ones: the model's, the reference's) of `rows` positions over a
// vocabulary, on all threads; the same bits for any number of them. Without a reference its statistics are 0, and its
// largest -1. kNonFinite names the first element that is NaN or infinite in either tensor.
Outcome logit_statistics(const float* logits, const float* reference, const std::int32_t* targets, std::size_t rows,
                         std::size_t vocabulary, LogitStatistics* statistics, std::int32_t* largest,
                         const CancelFlag* cancel = nullptr);

}  // namespace lowbit
