// Text from a checkpoint, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "eval/eval_model.h"
#include "eval/sampler.h"
#include "linalg/row_products.h"

namespace laos::eval {

struct GenerateOptions {
  Sampling sampling = {};
  int64_t max_new_tokens = 128;        // of each prompt
  std::vector<int32_t> stop_ids = {};  // a token that ends a text and is no part of it
  std::vector<int32_t> last_ids = {};  // a token that ends a text and is its last
  int64_t batch = 8;                   // prompts that run at a time
  // Off: everything is computed again for every token. For tests: the tokens are the same.
  bool kv_cache = true;
};

struct Generated {
  enum class Finish {
    kStop,
    kLength,
    kContext
  };  // a stop token or a last one, max_new_tokens, no more positions
  std::vector<int32_t> ids;
  Finish finish = Finish::kLength;
};

// Memory that generating takes, in bytes.
struct GenerateMemory {
  int64_t weights = 0;   // of the checkpoint's files, mapped: the system may drop and read again
  int64_t kv_cache = 0;  // at most, of the prompts that run at a time
  int64_t activations = 0;
};

// A checkpoint whose layers stay in memory.
class Generator {
 public:
  // Throws Error as open_eval_model. Integer weights are looked through once.
  explicit Generator(const EvalModel& model);

  GenerateMemory memory(const std::vector<std::vector<int32_t>>& prompts,
                        const GenerateOptions& options) const;

  // Continues every prompt (at least one token each). `on_token` is called with the prompt's index
  // and each token in turn, stop tokens excepted. What follows a prompt depends on the prompt, its
  // index (which picks its random numbers) and the options, and not on the other prompts, `batch`,
  // `kv_cache` or the number of threads. Throws Error: kData on ids outside the vocabulary and on
  // prompts that leave no position free, kNumeric when logits are not finite.
  std::vector<Generated> run(
      const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions& options,
      const std::function<void(size_t prompt, int32_t token)>& on_token = nullptr) const;

 private:
  // Positions of a prompt and its continuation.
  int64_t capacity(const std::vector<int32_t>& prompt, const GenerateOptions& options) const;

  const EvalModel& model_;
  std::vector<std::unique_ptr<EvalLayer>> layers_;
  linalg::RowWeight lm_head_;
};

}  // namespace laos::eval
