// How likely a model finds a text behind another.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "eval/metrics.h"
#include "eval/windows.h"
#include "hf/tokenizer.h"

namespace laos::eval {

// Contexts and continuations as token ids.
class PairEncoder {
 public:
  // Throws Error as hf::Tokenizer::load.
  explicit PairEncoder(std::filesystem::path directory, hf::Bos bos = hf::Bos::kAsModel);
  const hf::Tokenizer& tokenizer() const noexcept { return tokenizer_; }

  // Both encoded as one text; scored is what comes after as many tokens as the context alone has,
  // one token at least. White space at the end of the context belongs to the continuation, for
  // tokens begin with it. Behind no context the continuation, and what is one token with its
  // context, stands after the token that a text begins with: bos_token, or the end of a text where
  // there is none. Throws Error(kData) on a continuation without a token, and Error as
  // hf::Tokenizer::encode.
  Window encode(std::string_view context, std::string_view continuation) const;

 private:
  int32_t first_token() const;

  std::filesystem::path directory_;
  hf::Tokenizer tokenizer_;
  mutable std::optional<int32_t> first_token_;  // of the model's files, once it was asked for
};

// Windows that together score what `pair` does, each running `positions` tokens at most (0: any
// number). A context that is too long loses its beginning. A continuation that is, behind one
// token, is cut into windows that follow each other, the last with as much before it as there is
// room for. Throws Error(kData) for one behind more.
Windows fit(const Window& pair, int64_t positions);

// scored_hidden, without running the last token of each window, which nothing is read of. Throws
// Error(kData) on ids outside the vocabulary.
ScoredHidden target_hidden(const EvalModel& model, const Windows& windows,
                           const LayersDone& progress = nullptr);

struct Likelihood {
  double logprob = 0;  // of all scored tokens together, natural
  bool greedy = true;  // whether each of them is the likeliest
};
// Of one window after the other, of which `nll` and `hits` have the tokens (TokenScores). Throws
// Error(kNumeric) when they are not finite.
std::vector<Likelihood> likelihoods(const std::vector<double>& nll, const std::vector<double>& hits,
                                    const Windows& windows);

}  // namespace laos::eval
