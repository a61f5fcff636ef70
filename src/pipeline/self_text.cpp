#include "pipeline/self_text.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <utility>

#include "core/error.h"
#include "core/memory.h"
#include "core/units.h"
#include "eval/generate.h"
#include "hf/chat.h"
#include "hf/generation_config.h"
#include "hf/quantized_checkpoint.h"
#include "hf/tokenizer.h"

namespace laos::pipeline {
namespace {

// Of running text: tokens behind the first one that are the likeliest, so that a sample which
// begins anywhere becomes text before chance goes on.
constexpr int64_t kLikelyTokens = 4;
constexpr int kRounds = 4;  // in which questions are asked for until there are enough

class Writer {
 public:
  Writer(const std::filesystem::path& model_path, const SelfTextOptions& options,
         Progress& progress)
      : options_(options),
        progress_(progress),
        tokenizer_(hf::Tokenizer::load(model_path)),
        eos_(hf::read_eos_token_ids(model_path)),
        model_(eval::open_eval_model(model_path)),
        generator_(*model_) {}

  const hf::Tokenizer& tokenizer() const { return tokenizer_; }

  // Running text.
  Samples continue_tokens() {
    std::vector<int32_t> words;
    const int64_t ids = std::min(tokenizer_.vocab_size(), model_->config().vocab_size);
    for (int32_t id = 0; id < ids; ++id)
      if (is_word(id)) words.push_back(id);
    if (words.empty())
      throw Error(ErrorCode::kData, {.what = "the tokenizer has no token to begin a text with",
                                     .where = "tokenizer.json",
                                     .fix = "use the model's own tokenizer"});
    std::mt19937_64 random(options_.seed);
    Samples samples;
    while (std::ssize(samples) < options_.nsamples)
      samples.push_back(tokenizer_.begin({words[random() % words.size()]}));
    grow(samples, "openings", kLikelyTokens, {.seed = options_.seed}, {});
    grow(samples, "text", room(samples), drawn(0), eos_);
    return samples;
  }

  // Conversations of one question and its answer.
  Samples answer_questions(const hf::ChatFormat& chat) {
    // What the format writes before a user's words.
    const std::string mark = "laos";
    const std::string asked = chat.prompt({{.role = "user", .content = mark}});
    const std::vector<int32_t> before = tokenizer_.encode(asked.substr(0, asked.rfind(mark)));
    std::vector<int32_t> ends = eos_;
    ends.push_back(chat.end_token(tokenizer_));

    Samples samples;
    for (int round = 0; round < kRounds && std::ssize(samples) < options_.nsamples; ++round) {
      Samples turns(static_cast<size_t>(options_.nsamples - std::ssize(samples)), before);
      grow(turns, "questions", options_.seq_len / 2, drawn(round), ends);
      for (const std::vector<int32_t>& turn : turns) {
        const std::string question = text_of({turn.begin() + std::ssize(before), turn.end()});
        if (question.find_first_not_of(" \t\r\n") == std::string::npos) continue;
        std::vector<int32_t> prompt =
            tokenizer_.encode(chat.prompt({{.role = "user", .content = question}}));
        if (std::ssize(prompt) < options_.seq_len) samples.push_back(std::move(prompt));
      }
    }
    const std::vector<bool> ended = grow(samples, "answers", room(samples), drawn(kRounds), ends);
    for (size_t i = 0; i < samples.size(); ++i)
      if (ended[i] && std::ssize(samples[i]) < options_.seq_len) samples[i].push_back(ends.back());
    return samples;
  }

  // Ids beyond the tokenizer's have no text.
  std::string text_of(std::vector<int32_t> ids) const {
    std::erase_if(ids, [&](int32_t id) { return !tokenizer_.bytes_of(id); });
    return tokenizer_.decode(ids);
  }

 private:
  // Part of a text by itself: whole characters, none of them a control character, no special token.
  bool is_word(int32_t id) const {
    if (!tokenizer_.bytes_of(id) || tokenizer_.is_added(id)) return false;
    const std::string text = tokenizer_.decode(std::span(&id, 1));
    return !text.empty() && text.find("\uFFFD") == std::string::npos &&
           std::none_of(text.begin(), text.end(),
                        [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  }

  // Tokens that fit behind the shortest of them.
  int64_t room(const Samples& samples) const {
    int64_t shortest = options_.seq_len;
    for (const std::vector<int32_t>& sample : samples)
      shortest = std::min(shortest, std::ssize(sample));
    return options_.seq_len - shortest;
  }

  eval::Sampling drawn(int round) const {
    return {.temperature = options_.temperature,
            .seed = options_.seed + static_cast<uint32_t>(round)};
  }

  // Lets the model go on with every sample by so many tokens at most, within seq_len in all.
  // Whether each ended by itself.
  std::vector<bool> grow(Samples& samples, const std::string& part, int64_t tokens,
                         const eval::Sampling& sampling, const std::vector<int32_t>& stop_ids) {
    std::vector<bool> ended(samples.size(), false);
    tokens = std::min(tokens, room(samples));
    if (samples.empty() || tokens <= 0) return ended;
    const eval::GenerateOptions how = {.sampling = sampling,
                                       .max_new_tokens = tokens,
                                       .stop_ids = stop_ids,
                                       .batch = options_.batch};
    require_memory(generator_.memory(samples, how));
    // Samples that end early are counted as whole at the end.
    const int64_t all = tokens * std::ssize(samples);
    progress_.begin(part, all);
    int64_t done = 0;
    const auto on_token = [&](size_t sample, int32_t) {
      const auto whole = static_cast<int64_t>(sample) / options_.batch * options_.batch * tokens;
      done = std::max(done + 1, std::min(whole, all - 1));
      if (done < all) progress_.step(done, "");
      stop_if_asked();
    };
    const std::vector<eval::Generated> written = generator_.run(samples, how, on_token);
    for (size_t i = 0; i < samples.size(); ++i) {
      ended[i] = written[i].finish == eval::Generated::Finish::kStop;
      samples[i].insert(samples[i].end(), written[i].ids.begin(), written[i].ids.end());
      if (std::ssize(samples[i]) <= options_.seq_len) continue;
      samples[i].resize(static_cast<size_t>(options_.seq_len));
      ended[i] = false;
    }
    progress_.step(all, std::to_string(samples.size()) + " samples");
    stop_if_asked();
    return ended;
  }

  static void require_memory(const eval::GenerateMemory& memory) {
    const int64_t needed = memory.kv_cache + memory.activations,
                  available = available_memory_bytes(needed);
    if (needed <= available) return;
    throw Error(ErrorCode::kResource,
                {.what = "the KV cache and activations take " + bytes_text(needed) + ", and " +
                         bytes_text(available) + " of memory are available",
                 .where = "--batch",
                 .fix = "use a smaller --batch or --seqlen"});
  }

  void stop_if_asked() {
    if (progress_.stop())
      throw Error(ErrorCode::kStopped,
                  {.what = "stopped; nothing is written", .where = "", .fix = ""});
  }

  const SelfTextOptions& options_;
  Progress& progress_;
  hf::Tokenizer tokenizer_;
  std::vector<int32_t> eos_;
  std::unique_ptr<eval::EvalModel> model_;
  eval::Generator generator_;
};

}  // namespace

SelfText write_self_text(const std::filesystem::path& model_path, const SelfTextOptions& options,
                         Progress& progress) {
  if (hf::format_of(model_path).has_value())
    throw Error(ErrorCode::kUsage,
                {.what = "this checkpoint is quantized: its text is not the model's",
                 .where = model_path.string(),
                 .fix = "give the float checkpoint that it was made from"});
  SelfText result;
  std::optional<hf::ChatFormat> chat;
  Writer writer(model_path, options, progress);
  if (!options.is_base && !options.chat_format.empty())
    chat = hf::choose_chat_format(options.chat_format, model_path, writer.tokenizer(),
                                  /*assume=*/false)
               .format;
  else if (!options.is_base)
    chat = hf::ChatFormat::of_model(model_path);
  if (chat) result.chat_format = chat->name();
  const Samples samples = chat ? writer.answer_questions(*chat) : writer.continue_tokens();
  if (samples.empty())
    throw Error(ErrorCode::kData, {.what = "the model asks no question in its chat format",
                                   .where = model_path.string(),
                                   .fix = "add --base for running text"});
  if (std::ssize(samples) < options.nsamples)
    result.warnings.push_back("the model wrote " + std::to_string(samples.size()) + " of " +
                              std::to_string(options.nsamples) +
                              " questions; the others were empty or too long");
  for (const std::vector<int32_t>& sample : samples) {
    result.num_tokens += std::ssize(sample);
    result.lines.push_back(
        nlohmann::ordered_json{{"input_ids", sample}, {"text", writer.text_of(sample)}}.dump());
  }
  return result;
}

}  // namespace laos::pipeline
