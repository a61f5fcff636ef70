#include "eval/generate.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"
#include "model/cached_layer.h"

namespace laos::eval {
namespace {

constexpr int64_t kMaxTokens = 512;  // that run through the layers at a time

int64_t bytes_of_activations(const hf::Config& config, int64_t tokens) {
  const int64_t q = config.num_attention_heads * config.head_dim,
                kv = config.num_key_value_heads * config.head_dim;
  // LayerSaved without backward, the rows in and out, int32 sums of the widest linear.
  return 4 * (tokens * (5 * config.hidden_size + 3 * q + 3 * kv +
                        4 * hf::dense_intermediate_size(config)) +
              model::MixtureSaved<float>::num_values(config, tokens));
}

}  // namespace

Generator::Generator(const EvalModel& model) : model_(model), lm_head_(model.lm_head()) {
  for (int64_t i = 0; i < model.config().num_hidden_layers; ++i)
    layers_.push_back(model.load_resident_layer(i));
}

int64_t Generator::capacity(const std::vector<int32_t>& prompt,
                            const GenerateOptions& options) const {
  // The last token that is chosen is not run.
  const int64_t wanted = std::ssize(prompt) + std::max<int64_t>(options.max_new_tokens, 1) - 1;
  const int64_t most = model_.config().max_position_embeddings;
  return most > 0 ? std::min(wanted, most) : wanted;
}

GenerateMemory Generator::memory(const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerateOptions& options) const {
  const hf::Config& config = model_.config();
  GenerateMemory memory;
  memory.weights = model_.weight_bytes();
  std::vector<int64_t> sizes;
  sizes.reserve(prompts.size());
  for (const auto& prompt : prompts) sizes.push_back(capacity(prompt, options));
  // Batches are runs of prompts in order.
  for (size_t begin = 0; begin < sizes.size(); begin += static_cast<size_t>(options.batch)) {
    int64_t tokens = 0;
    for (size_t i = begin; i < std::min(sizes.size(), begin + static_cast<size_t>(options.batch));
         ++i)
      tokens += sizes[i];
    memory.kv_cache = std::max(memory.kv_cache, tokens * model::KvCache::bytes_per_token(config));
    const int64_t at_once = std::min(tokens, std::max(kMaxTokens, options.batch));
    memory.activations = std::max(memory.activations, bytes_of_activations(config, at_once) +
                                                          4 * options.batch * config.vocab_size);
  }
  return memory;
}

namespace {

// Some prompts on their way through the model together.
class Batch {
 public:
  Batch(const EvalModel& model, const std::vector<std::unique_ptr<EvalLayer>>& layers,
        const linalg::RowWeight& lm_head, std::vector<int64_t> capacities)
      : model_(model),
        layers_(layers),
        lm_head_(lm_head),
        rope_(model.config(), *std::max_element(capacities.begin(), capacities.end())),
        cache_(model.config(), capacities),
        saved_(model.config(), kMaxTokens, false) {}

  // Runs further tokens of some sequences; logits [sequences.size(), vocab_size] after the last of
  // each.
  Mat<float> run(const std::vector<int64_t>& sequences,
                 const std::vector<std::vector<int32_t>>& tokens) {
    Mat<float> last(std::ssize(sequences), model_.config().hidden_size);
    // A piece: whole or parts of sequences, kMaxTokens at most. A sequence's tokens in order.
    std::vector<size_t> done(sequences.size(), 0);
    for (size_t first = 0; first < sequences.size();) {
      std::vector<int64_t> piece_sequences;
      std::vector<std::vector<int32_t>> piece;
      std::vector<size_t> owners;
      int64_t room = kMaxTokens;
      for (size_t i = first; i < sequences.size() && room > 0; ++i) {
        const auto begin = tokens[i].begin() + static_cast<std::ptrdiff_t>(done[i]);
        const int64_t count = std::min(room, static_cast<int64_t>(tokens[i].end() - begin));
        piece.emplace_back(begin, begin + count);
        piece_sequences.push_back(sequences[i]);
        owners.push_back(i);
        done[i] += static_cast<size_t>(count);
        room -= count;
      }
      const model::HiddenStates states = forward(piece_sequences, piece);
      for (size_t p = 0; p < owners.size(); ++p) {
        if (done[owners[p]] < tokens[owners[p]].size()) continue;
        const MatView<const float> rows = states.of_sample(static_cast<int64_t>(p));
        std::copy_n(rows.row(rows.rows - 1), rows.cols, last.row(static_cast<int64_t>(owners[p])));
        first = owners[p] + 1;
      }
    }
    model::HiddenStates ends{.samples = {}, .rows = std::move(last)};
    normalize_final(model_, ends);
    Mat<float> logits(ends.rows.rows(), lm_head_.rows());
    lm_head_.multiply(std::as_const(ends.rows).view(), logits.view());
    round_rows(logits.view(), dtype_of(model_.emulation()));
    return logits;
  }

  void forget(int64_t sequence) { cache_.clear(sequence); }

 private:
  model::HiddenStates forward(const std::vector<int64_t>& sequences,
                              const std::vector<std::vector<int32_t>>& tokens) {
    model::HiddenStates x = model::embed(model_.embed_tokens(), tokens);
    model::TokenRows y(x.rows.rows(), x.rows.cols(), {});
    for (size_t i = 0; i < layers_.size(); ++i) {
      model::cached_layer_forward(model_.config(), static_cast<int64_t>(i), layers_[i]->norms(),
                                  layers_[i]->linears(), rope_, x.samples, sequences,
                                  std::as_const(x.rows).view(), cache_, saved_, y.view(),
                                  dtype_of(model_.emulation()));
      std::swap(x.rows, y);
    }
    for (size_t s = 0; s < sequences.size(); ++s)
      cache_.extend(sequences[s], std::ssize(tokens[s]));
    return x;
  }

  const EvalModel& model_;
  const std::vector<std::unique_ptr<EvalLayer>>& layers_;
  const linalg::RowWeight& lm_head_;
  model::Rope<float> rope_;
  model::KvCache cache_;
  model::LayerSaved<float> saved_;
};

}  // namespace

std::vector<Generated> Generator::run(
    const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions& options,
    const std::function<void(size_t prompt, int32_t token)>& on_token) const {
  const int64_t most = model_.config().max_position_embeddings;
  for (const auto& prompt : prompts) {
    LAOS_ASSERT(!prompt.empty());
    if (most > 0 && std::ssize(prompt) > most)
      throw Error(ErrorCode::kData, {.what = "a prompt of " + std::to_string(prompt.size()) +
                                             " tokens is longer than the model's " +
                                             std::to_string(most) + " positions",
                                     .where = "prompt",
                                     .fix = "use a shorter prompt"});
  }
  std::vector<Generated> results(prompts.size());
  if (options.max_new_tokens <= 0) return results;
  for (size_t begin = 0; begin < prompts.size(); begin += static_cast<size_t>(options.batch)) {
    const size_t end = std::min(prompts.size(), begin + static_cast<size_t>(options.batch));
    std::vector<int64_t> capacities, running;
    std::vector<std::vector<int32_t>> next;
    std::vector<Sampler> samplers;
    for (size_t i = begin; i < end; ++i) {
      capacities.push_back(capacity(prompts[i], options));
      running.push_back(std::ssize(running));
      next.push_back(prompts[i]);
      samplers.emplace_back(options.sampling, static_cast<uint32_t>(i));
    }
    Batch batch(model_, layers_, lm_head_, capacities);
    while (!running.empty()) {
      const Mat<float> logits = batch.run(running, next);
      std::vector<int64_t> going_on;
      next.clear();
      for (size_t r = 0; r < running.size(); ++r) {
        const int64_t s = running[r];
        const size_t prompt = begin + static_cast<size_t>(s);
        Generated& result = results[prompt];
        const int32_t token = samplers[static_cast<size_t>(s)].next(
            {logits.row(static_cast<int64_t>(r)), static_cast<size_t>(logits.cols())});
        const auto is_among = [token](const std::vector<int32_t>& ids) {
          return std::find(ids.begin(), ids.end(), token) != ids.end();
        };
        if (is_among(options.stop_ids)) {
          result.finish = Generated::Finish::kStop;
          continue;
        }
        result.ids.push_back(token);
        if (on_token) on_token(prompt, token);
        if (is_among(options.last_ids)) {
          result.finish = Generated::Finish::kStop;
          continue;
        }
        if (std::ssize(result.ids) == options.max_new_tokens) continue;
        const int64_t known = std::ssize(prompts[prompt]) + std::ssize(result.ids);
        if (known > capacities[static_cast<size_t>(s)]) {
          result.finish = Generated::Finish::kContext;
          continue;
        }
        going_on.push_back(s);
        if (options.kv_cache) {
          next.push_back({token});
        } else {
          batch.forget(s);
          next.push_back(prompts[prompt]);
          next.back().insert(next.back().end(), result.ids.begin(), result.ids.end());
        }
      }
      running = std::move(going_on);
    }
  }
  return results;
}

}  // namespace laos::eval
