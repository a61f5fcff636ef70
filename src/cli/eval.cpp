#include "cli/eval.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/flags.h"
#include "core/threads.h"
#include "eval/perplexity.h"
#include "hf/dataset.h"
#include "hf/tokenizer.h"

namespace laos::cli {
namespace {

struct EvalFlags {
  std::string model_path, text, baseline;
  int64_t seq_len = 512;
  int threads = 0;
  bool json = false;
};

nlohmann::ordered_json to_json(const eval::Perplexity& p) {
  return {{"perplexity", p.value},
          {"tokens", p.num_tokens},
          {"nll", p.nll},
          {"nll_stderr", p.nll_stderr}};
}

void run_eval(const EvalFlags& flags) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  if (flags.seq_len < 2)
    throw Error(ErrorCode::kUsage,
                {.what = "--seq-len " + std::to_string(flags.seq_len) + " scores no token",
                 .where = "command line",
                 .fix = "use 2 or more"});
  const std::unique_ptr<eval::EvalModel> model = eval::open_eval_model(flags.model_path);
  const hf::Tokenizer tokenizer = hf::Tokenizer::load(flags.model_path);
  const eval::Windows windows = hf::token_windows(flags.text, tokenizer, flags.seq_len);
  if (flags.baseline.empty()) {
    const eval::Perplexity p = eval::perplexity(*model, windows);
    if (flags.json)
      std::cout << to_json(p).dump(2) << '\n';
    else
      std::printf("perplexity %.4f over %lld tokens in %zu windows of %lld\n", p.value,
                  static_cast<long long>(p.num_tokens), windows.size(),
                  static_cast<long long>(flags.seq_len));
    return;
  }
  const std::unique_ptr<eval::EvalModel> baseline = eval::open_eval_model(flags.baseline);
  const eval::Comparison c = eval::compare(*model, *baseline, windows);
  const eval::Divergence& d = c.divergence;
  if (flags.json) {
    nlohmann::ordered_json json = to_json(c.model);
    json["baseline"] = to_json(c.baseline);
    json["kl"] = {{"mean", d.kl_mean},
                  {"stderr", d.kl_stderr},
                  {"median", d.kl_median},
                  {"p99", d.kl_p99},
                  {"max", d.kl_max}};
    json["top1_agreement"] = d.top1_agreement;
    std::cout << json.dump(2) << '\n';
    return;
  }
  std::printf("perplexity       %.4f (baseline %.4f) over %lld tokens in %zu windows of %lld\n",
              c.model.value, c.baseline.value, static_cast<long long>(c.model.num_tokens),
              windows.size(), static_cast<long long>(flags.seq_len));
  std::printf(
      "KL from baseline %.5f +- %.5f nats per token; median %.5f, 99th percentile %.5f, maximum "
      "%.5f\n",
      d.kl_mean, d.kl_stderr, d.kl_median, d.kl_p99, d.kl_max);
  std::printf("top-1 agreement  %.4f\n", d.top1_agreement);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command =
      app.add_subcommand("eval", "Perplexity of a float or AscendV1 checkpoint on a text file");
  command
      ->add_option(both_spellings("--model-path"), flags->model_path,
                   "checkpoint directory, float or AscendV1")
      ->required();
  command->add_option("--text", flags->text, "UTF-8 text to score, cut into windows from its start")
      ->required();
  command->add_option(both_spellings("--seq-len"), flags->seq_len, "tokens a window")
      ->capture_default_str();
  command->add_option("--baseline", flags->baseline,
                      "checkpoint to compare with: adds KL divergence and top-1 agreement");
  command
      ->add_option("--threads", flags->threads, "threads to use; the result does not depend on it")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--json", flags->json, "print a JSON object");
  command->callback([flags] { run_eval(*flags); });
}

}  // namespace laos::cli
