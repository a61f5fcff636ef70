#include "eval/likelihood.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/error.h"
#include "hf/generation_config.h"
#include "hf/unicode.h"

namespace laos::eval {

PairEncoder::PairEncoder(std::filesystem::path directory, hf::Bos bos)
    : directory_(std::move(directory)), tokenizer_(hf::Tokenizer::load(directory_, bos)) {}

namespace {

int32_t read_first_token(const std::filesystem::path& directory) {
  try {
    return hf::Tokenizer::load(directory, hf::Bos::kAdd).ids_before().front();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
  }
  const std::vector<int32_t> ends = hf::read_eos_token_ids(directory);
  if (ends.empty())
    throw Error(ErrorCode::kData,
                {.what = "there is no context, and the model has no token that a text begins with",
                 .where = directory.string(),
                 .fix = "give a context"});
  return ends.front();
}

}  // namespace

int32_t PairEncoder::first_token() const {
  if (!first_token_) first_token_ = read_first_token(directory_);
  return *first_token_;
}

Window PairEncoder::encode(std::string_view context, std::string_view continuation) const {
  const std::string text = std::string(context) + std::string(continuation);
  const size_t bad = hf::first_invalid_utf8(text);
  if (bad != std::string_view::npos)
    throw Error(ErrorCode::kData, {.what = "the text is not UTF-8", .where = "", .fix = ""});
  context.remove_suffix(hf::trailing_space(context));
  Window pair;
  pair.ids = tokenizer_.begin(tokenizer_.encode(text));
  // Both may be one token together.
  const bool is_alone = context.empty() || (pair.ids.size() == 1 && !continuation.empty());
  if (is_alone) {
    if (tokenizer_.ids_before().empty()) {
      const int32_t first = first_token();
      if (pair.ids.empty() || pair.ids.front() != first) pair.ids.insert(pair.ids.begin(), first);
    }
    pair.num_context = std::max<int64_t>(1, std::ssize(tokenizer_.ids_before()));
  } else {
    pair.num_context = std::min(std::ssize(tokenizer_.begin(tokenizer_.encode(context))),
                                std::ssize(pair.ids) - 1);
  }
  if (continuation.empty() || pair.num_context < 1 || pair.num_scored() < 1)
    throw Error(ErrorCode::kData,
                {.what = "the continuation has no token", .where = "", .fix = "give it a text"});
  return pair;
}

Windows fit(const Window& pair, int64_t positions) {
  const int64_t runs = std::ssize(pair.ids) - 1;  // the last is only scored
  if (positions <= 0 || runs <= positions) return {pair};
  // Those before and with token `last`, of which the last `scored` count.
  const auto ending_at = [&](int64_t last, int64_t scored) {
    const int64_t first = std::max<int64_t>(0, last - positions);
    return Window{.ids = {pair.ids.begin() + first, pair.ids.begin() + last + 1},
                  .num_context = last + 1 - first - scored};
  };
  if (pair.num_scored() <= positions) return {ending_at(runs, pair.num_scored())};
  if (pair.num_context > 1)
    throw Error(
        ErrorCode::kData,
        {.what = "a continuation of " + std::to_string(pair.num_scored()) +
                 " tokens is longer than the model's " + std::to_string(positions) + " positions",
         .where = "",
         .fix = "shorten it, or give no context"});
  Windows windows;
  for (int64_t done = 0; done < runs;) {
    const int64_t scored = std::min(runs - done, positions);
    done += scored;
    windows.push_back(ending_at(done, scored));
  }
  return windows;
}

ScoredHidden target_hidden(const EvalModel& model, const Windows& windows,
                           const LayersDone& progress) {
  std::vector<std::vector<int32_t>> inputs;
  for (const Window& window : windows) {
    LAOS_ASSERT(window.num_context >= 1 && window.num_scored() >= 1);
    const int32_t last = window.ids.back();
    if (last < 0 || last >= model.config().vocab_size)
      throw Error(ErrorCode::kData,
                  {.what = "token " + std::to_string(last) + " is outside the vocabulary of " +
                           std::to_string(model.config().vocab_size),
                   .where = "evaluation text",
                   .fix = "use the tokenizer of the model"});
    inputs.emplace_back(window.ids.begin(), window.ids.end() - 1);
  }
  return scored_hidden(model, final_hidden(model, inputs, progress), windows);
}

std::vector<Likelihood> likelihoods(const std::vector<double>& nll, const std::vector<double>& hits,
                                    const Windows& windows) {
  std::vector<Likelihood> result;
  size_t token = 0;
  for (const Window& window : windows) {
    Likelihood sum;
    for (int64_t i = 0; i < window.num_scored(); ++i, ++token) {
      sum.logprob -= nll[token];
      sum.greedy = sum.greedy && hits[token] != 0;
    }
    if (!std::isfinite(sum.logprob))
      throw Error(ErrorCode::kNumeric, {.what = "the model's logits are not finite",
                                        .where = "evaluation",
                                        .fix = "check the checkpoint with `laos inspect`"});
    result.push_back(sum);
  }
  LAOS_ASSERT(token == nll.size());
  return result;
}

}  // namespace laos::eval
