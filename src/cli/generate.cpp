#include "cli/generate.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/bos_flags.h"
#include "cli/dataset_flags.h"
#include "cli/emulate.h"
#include "cli/flags.h"
#include "cli/model_text.h"
#include "core/memory.h"
#include "core/threads.h"
#include "core/units.h"
#include "eval/generate.h"
#include "hf/chat.h"
#include "hf/generation_config.h"
#include "hf/records.h"
#include "hf/text_stream.h"

namespace laos::cli {
namespace {

using Json = nlohmann::ordered_json;
using Prompts = std::vector<std::vector<int32_t>>;

struct GenerateFlags {
  BosFlags bos;
  std::string model_path, baseline, prompt_file, system, chat_format, emulate;
  std::vector<std::string> prompts;
  eval::GenerateOptions options;
  bool thinking = false, no_thinking = false;
  bool chat = false, ignore_eos = false, no_kv_cache = false, json = false;
  int threads = 0;
};

void check_flags(const GenerateFlags& flags) {
  Problems problems;
  const auto refuse = [&](const char* what, const char* fix) {
    problems.add({.what = what, .where = "command line", .fix = fix});
  };
  if (flags.prompts.empty() == flags.prompt_file.empty())
    refuse("one of --prompt and --prompt-file is needed, not both", "give one of them");
  if (std::any_of(flags.prompts.begin(), flags.prompts.end(),
                  [](const std::string& prompt) { return prompt.empty(); }))
    refuse("the prompt is empty", "give it at least one character");
  const eval::Sampling& sampling = flags.options.sampling;
  if (sampling.temperature == 0 && (sampling.top_p < 1 || sampling.top_k > 0))
    refuse("--top-p and --top-k choose among tokens only with a temperature above 0",
           "add --temperature");
  if (!flags.chat &&
      (flags.thinking || flags.no_thinking || !flags.system.empty() || !flags.chat_format.empty()))
    refuse("--thinking, --no-thinking, --system and --chat-format belong to the chat format",
           "add --chat");
  problems.throw_if_any(ErrorCode::kUsage);
}

std::vector<hf::Record> read_prompts(const GenerateFlags& flags) {
  if (flags.prompt_file.empty()) {
    std::vector<hf::Record> prompts;
    for (const std::string& text : flags.prompts)
      prompts.push_back({.text = text, .messages = {}, .ids = {}, .where = "--prompt"});
    return prompts;
  }
  hf::Records records = hf::read_records(flags.prompt_file, hf::RecordPart::kQuestion);
  if (records.num_empty > 0)
    std::fprintf(stderr, "laos: warning: %s: %lld empty prompts left out\n",
                 flags.prompt_file.c_str(), static_cast<long long>(records.num_empty));
  if (records.list.empty())
    throw Error(ErrorCode::kData, {.what = "there is no prompt",
                                   .where = flags.prompt_file,
                                   .fix = "use a file with prompts in it"});
  return std::move(records.list);
}

// Token ids as the model reads them.
Prompts encode(const GenerateFlags& flags, const std::vector<hf::Record>& prompts,
               const hf::Tokenizer& tokenizer, const std::optional<hf::ChatFormat>& chat) {
  Prompts encoded;
  for (const hf::Record& prompt : prompts) {
    if (!prompt.ids.empty()) {
      encoded.push_back(prompt.ids);
      continue;
    }
    std::vector<hf::ChatMessage> messages = prompt.messages;
    if (!chat) {
      if (!messages.empty())
        throw Error(ErrorCode::kUsage, {.what = "the prompt is a list of messages",
                                        .where = prompt.where,
                                        .fix = "add --chat"});
      encoded.push_back(tokenizer.begin(tokenizer.encode(prompt.text)));
      continue;
    }
    if (messages.empty()) messages.push_back({.role = "user", .content = prompt.text});
    if (!flags.system.empty())
      messages.insert(messages.begin(), {.role = "system", .content = flags.system});
    encoded.push_back(tokenizer.encode(chat->prompt(messages, !flags.no_thinking)));
  }
  return encoded;
}

// Refuses what cannot fit, before the first token.
void plan_memory(const eval::GenerateMemory& memory, bool quiet) {
  const int64_t needed = memory.kv_cache + memory.activations;
  const int64_t available = available_memory_bytes(needed);
  if (needed > available)
    throw Error(ErrorCode::kResource,
                {.what = "the KV cache and activations take " + bytes_text(needed) + ", and " +
                         bytes_text(available) + " of memory are available",
                 .where = "generation",
                 .fix = "use fewer --max-new-tokens, shorter prompts or a smaller --batch"});
  if (quiet) return;
  std::fprintf(stderr, "memory    weights %s, KV cache %s, activations %s; available %s\n",
               bytes_text(memory.weights).c_str(), bytes_text(memory.kv_cache).c_str(),
               bytes_text(memory.activations).c_str(), bytes_text(available).c_str());
  if (memory.weights + needed > available)
    std::fprintf(stderr,
                 "warning   the weights do not fit beside it: they are read from disk again for "
                 "every token\n");
}

const char* name_of(eval::Generated::Finish finish) {
  switch (finish) {
    case eval::Generated::Finish::kStop:
      return "stop";
    case eval::Generated::Finish::kLength:
      return "length";
    case eval::Generated::Finish::kContext:
      break;
  }
  return "context";
}

std::string decode(const hf::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  hf::TextStream stream(tokenizer);
  std::string text;
  for (const int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

int64_t same_tokens(const eval::Generated& a, const eval::Generated& b) {
  return std::mismatch(a.ids.begin(), a.ids.end(), b.ids.begin(), b.ids.end()).first -
         a.ids.begin();
}

// Runs one model over all prompts. With `stream`, text goes to stdout as it comes.
std::vector<eval::Generated> run_model(const eval::Generator& generator, const Prompts& prompts,
                                       const eval::GenerateOptions& options,
                                       const hf::Tokenizer& tokenizer, bool stream, bool quiet) {
  hf::TextStream text(tokenizer);
  const auto show = [](const std::string& piece) { std::cout << harmless(piece) << std::flush; };
  const auto start = std::chrono::steady_clock::now();
  auto first_token = start;
  int64_t count = 0;
  std::vector<eval::Generated> results =
      generator.run(prompts, options, [&](size_t, int32_t token) {
        if (count++ == 0) first_token = std::chrono::steady_clock::now();
        if (stream) show(text.push(token));
      });
  if (stream) show(text.finish() + "\n");
  if (quiet || count == 0) return results;
  const auto seconds = [](auto from, auto to) {
    return std::chrono::duration<double>(to - from).count();
  };
  const auto end = std::chrono::steady_clock::now();
  std::fprintf(stderr, "speed     first token after %.2f s, %lld tokens in %.2f s",
               seconds(start, first_token), static_cast<long long>(count), seconds(start, end));
  if (prompts.size() == 1 && count > 1)
    std::fprintf(stderr, ", then %.1f a second",
                 static_cast<double>(count - 1) / seconds(first_token, end));
  std::fprintf(stderr, "\n");
  return results;
}

Json to_json(const eval::Generated& generated, const hf::Tokenizer& tokenizer) {
  return {{"text", decode(tokenizer, generated.ids)},
          {"ids", generated.ids},
          {"finish", name_of(generated.finish)}};
}

void print_json(const GenerateFlags& flags, const Prompts& prompts,
                const std::vector<eval::Generated>& results,
                const std::vector<eval::Generated>& baseline, const hf::Tokenizer& tokenizer) {
  Json json = {{"model", flags.model_path}};
  if (!flags.baseline.empty()) json["baseline"] = flags.baseline;
  json["results"] = Json::array();
  for (size_t i = 0; i < prompts.size(); ++i) {
    Json result = {{"prompt", decode(tokenizer, prompts[i])}, {"prompt_ids", prompts[i]}};
    result.update(to_json(results[i], tokenizer));
    if (!baseline.empty()) {
      result["baseline"] = to_json(baseline[i], tokenizer);
      result["same_tokens"] = same_tokens(results[i], baseline[i]);
    }
    json["results"].push_back(std::move(result));
  }
  std::cout << json.dump(2) << '\n';
}

void print_texts(const Prompts& prompts, const std::vector<eval::Generated>& results,
                 const std::vector<eval::Generated>& baseline, const hf::Tokenizer& tokenizer) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::cout << "prompt    " << one_line(decode(tokenizer, prompts[i])) << '\n';
    if (!baseline.empty())
      std::cout << "baseline  " << one_line(decode(tokenizer, baseline[i].ids)) << '\n';
    std::cout << "model     " << one_line(decode(tokenizer, results[i].ids)) << '\n';
    if (!baseline.empty())
      std::cout << "same      the first " << same_tokens(results[i], baseline[i]) << " of "
                << results[i].ids.size() << " tokens\n";
  }
  std::cout << std::flush;
}

void run_generate(const GenerateFlags& flags) {
  check_flags(flags);
  if (flags.threads > 0) set_num_threads(flags.threads);
  const std::vector<hf::Record> read = read_prompts(flags);
  const hf::Tokenizer tokenizer = hf::Tokenizer::load(flags.model_path, flags.bos());
  eval::GenerateOptions options = flags.options;
  options.kv_cache = !flags.no_kv_cache;
  if (!flags.ignore_eos) options.stop_ids = hf::read_eos_token_ids(flags.model_path);
  std::optional<hf::ChatFormat> chat;
  if (flags.chat) {
    hf::ChosenChat chosen =
        hf::choose_chat_format(flags.chat_format, flags.model_path, tokenizer, /*assume=*/false);
    if (!chosen.warning.empty() && !flags.json)
      std::fprintf(stderr, "warning   %s\n", chosen.warning.c_str());
    if (flags.no_thinking && !chosen.format.thinks())
      throw Error(ErrorCode::kUsage, {.what = "the chat format " + chosen.format.name() +
                                              " has no thoughts to leave out",
                                      .where = "--no-thinking",
                                      .fix = "leave the flag out"});
    options.stop_ids.push_back(chosen.format.end_token(tokenizer));
    chat = std::move(chosen.format);
  }
  const Prompts prompts = encode(flags, read, tokenizer, chat);

  const std::unique_ptr<eval::EvalModel> model =
      eval::open_eval_model(flags.model_path, arithmetic_of(flags.emulate));
  std::unique_ptr<eval::EvalModel> baseline;
  if (!flags.baseline.empty()) {
    baseline = eval::open_eval_model(flags.baseline);
    if (baseline->config().vocab_size != model->config().vocab_size)
      throw Error(ErrorCode::kShape,
                  {.what = "vocabularies of " + std::to_string(model->config().vocab_size) +
                           " and " + std::to_string(baseline->config().vocab_size) + " tokens",
                   .where = "model and baseline",
                   .fix = "compare checkpoints of the same model"});
  }
  const bool stream = prompts.size() == 1 && !flags.json && !baseline;
  // One model at a time in memory.
  const auto run = [&](const eval::EvalModel& of) {
    const eval::Generator generator(of);
    plan_memory(generator.memory(prompts, options), flags.json);
    return run_model(generator, prompts, options, tokenizer, stream, flags.json);
  };
  std::vector<eval::Generated> baseline_results;
  if (baseline) baseline_results = run(*baseline);
  const OverflowReport overflow(flags.model_path, *model);
  const std::vector<eval::Generated> results = run(*model);
  if (flags.json)
    print_json(flags, prompts, results, baseline_results, tokenizer);
  else if (!stream)
    print_texts(prompts, results, baseline_results, tokenizer);
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command =
      app.add_subcommand("generate", "What a checkpoint, float or quantized, says after a prompt");
  command
      ->add_option(both_spellings("--model-path"), flags->model_path,
                   "checkpoint directory, float or quantized")
      ->required();
  command->add_option("--baseline", flags->baseline,
                      "checkpoint to show beside it, float or quantized");
  command->add_option("--prompt", flags->prompts, "text to continue; repeat it for several")
      ->allow_extra_args(false);
  command->add_option(both_spellings("--prompt-file"), flags->prompt_file,
                      "prompts: .jsonl, .json, .csv or .parquet with `prompt`, `messages`, `ids` "
                      "and others; else a prompt a line; `-`: standard input");
  add_bos_flags(*command, flags->bos);
  command->add_flag("--chat", flags->chat,
                    "put prompts into the model's chat format as the user's turn");
  add_chat_format(*command, flags->chat_format);
  command->add_option("--system", flags->system, "with --chat: the system's turn before it");
  auto* thinking = command->add_flag("--thinking", flags->thinking,
                                     "with --chat: the model thinks before it answers [it does]");
  command
      ->add_flag(both_spellings("--no-thinking"), flags->no_thinking,
                 "with --chat: it answers at once")
      ->excludes(thinking);
  command
      ->add_option(both_spellings("--max-new-tokens"), flags->options.max_new_tokens,
                   "tokens to generate for a prompt, at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  eval::Sampling& sampling = flags->options.sampling;
  command
      ->add_option("--temperature", sampling.temperature,
                   "0 takes the likeliest token each time; above, tokens are drawn")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command
      ->add_option(both_spellings("--top-p"), sampling.top_p,
                   "draw from the likeliest tokens that together have this probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command
      ->add_option(both_spellings("--top-k"), sampling.top_k,
                   "draw from this many likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--seed", sampling.seed, "of the draws; the same gives the same text")
      ->capture_default_str();
  command->add_flag(both_spellings("--ignore-eos"), flags->ignore_eos,
                    "go on after the model's end-of-text token");
  command->add_option("--batch", flags->options.batch, "prompts that run at a time")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_flag(both_spellings("--no-kv-cache"), flags->no_kv_cache,
                    "compute everything again for every token; the text is the same");
  add_emulate_option(*command, flags->emulate);
  command->add_option("--threads", flags->threads, "threads to use; the text does not depend on it")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--json", flags->json, "print a JSON object");
  command->callback([flags] { run_generate(*flags); });
}

}  // namespace laos::cli
