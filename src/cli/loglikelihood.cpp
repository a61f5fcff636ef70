#include "cli/loglikelihood.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/bos_flags.h"
#include "cli/emulate.h"
#include "cli/flags.h"
#include "cli/read_line.h"
#include "core/error.h"
#include "core/threads.h"
#include "eval/likelihood.h"
#include "hf/json_file.h"

namespace laos::cli {
namespace {

struct LikelihoodFlags {
  std::string model_path, input, emulate;
  BosFlags bos;
  int64_t batch = 64;
  int threads = 0;
};

[[noreturn]] void refuse_request(const std::string& what, const std::string& where) {
  throw Error(ErrorCode::kData, {.what = what,
                                 .where = where,
                                 .fix = "write {\"context\": \"...\", \"continuation\": \"...\"}"});
}

// A request as the model runs it.
struct LikelihoodRequest {
  eval::Windows windows;
  int64_t cut = 0;  // tokens of the context that there is no room for
};

LikelihoodRequest request_of(const std::string& line, const std::string& where,
                             const eval::PairEncoder& encoder, int64_t positions) {
  constexpr int64_t kMaxValues = 100;
  nlohmann::json object;
  try {
    object = hf::parse_json<nlohmann::json>(line, where, kMaxValues);
  } catch (const Error& error) {
    refuse_request(error.problems().front().what, where);
  }
  const auto string_of = [&](const char* key) -> const std::string& {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_string())
      refuse_request(std::string("the request has no string `") + key + "`", where);
    return found->get_ref<const std::string&>();
  };
  if (!object.is_object()) refuse_request("the line is no JSON object", where);
  const std::string& context = string_of("context");
  const std::string& continuation = string_of("continuation");
  try {
    const eval::Window pair = encoder.encode(context, continuation);
    LikelihoodRequest request{.windows = eval::fit(pair, positions)};
    if (request.windows.size() == 1)
      request.cut = std::ssize(pair.ids) - std::ssize(request.windows.front().ids);
    return request;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kData) refuse_request(error.problems().front().what, where);
    throw;
  }
}

void answer(const eval::EvalModel& model, const std::vector<LikelihoodRequest>& requests,
            std::ostream& out) {
  if (requests.empty()) return;
  eval::Windows windows;
  for (const LikelihoodRequest& request : requests)
    windows.insert(windows.end(), request.windows.begin(), request.windows.end());
  const eval::TokenScores scores =
      eval::score_tokens(eval::target_hidden(model, windows), nullptr, windows);
  const std::vector<eval::Likelihood> all = eval::likelihoods(scores.nll, scores.hits, windows);
  auto of_window = all.begin();
  for (const LikelihoodRequest& request : requests) {
    eval::Likelihood sum;
    for (size_t i = 0; i < request.windows.size(); ++i, ++of_window) {
      sum.logprob += of_window->logprob;
      sum.greedy = sum.greedy && of_window->greedy;
    }
    nlohmann::ordered_json json = {{"logprob", sum.logprob}, {"greedy", sum.greedy}};
    if (request.cut > 0) json["cut"] = request.cut;
    out << json.dump() << '\n';
  }
  flush_answers(out);
}

void run_loglikelihood(const LikelihoodFlags& flags) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  const std::unique_ptr<eval::EvalModel> model =
      eval::open_eval_model(flags.model_path, arithmetic_of(flags.emulate));
  const eval::PairEncoder encoder(flags.model_path, flags.bos());
  const OverflowReport overflow(flags.model_path, *model);
  const int64_t positions = model->config().max_position_embeddings;
  with_input(flags.input, [&](std::istream& in, const std::string& name) {
    std::vector<LikelihoodRequest> requests;
    std::string line;
    for (int64_t number = 1;; ++number) {
      const std::string where = name + ":" + std::to_string(number);
      try {
        if (!read_line(in, line, where)) break;
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        requests.push_back(request_of(line, where, encoder, positions));
      } catch (const Error&) {
        answer(*model, requests, std::cout);
        throw;
      }
      if (std::ssize(requests) < flags.batch) continue;
      answer(*model, requests, std::cout);
      requests.clear();
    }
    answer(*model, requests, std::cout);
  });
}

}  // namespace

void add_loglikelihood_command(CLI::App& app) {
  const auto flags = std::make_shared<LikelihoodFlags>();
  CLI::App* command = app.add_subcommand(
      "loglikelihood", "Log-probabilities of continuations: JSON lines in, JSON lines out");
  command
      ->add_option(both_spellings("--model-path"), flags->model_path,
                   "checkpoint directory, float or AscendV1")
      ->required();
  command->add_option("--input", flags->input, "JSON lines to read instead of standard input");
  command
      ->add_option("--batch", flags->batch,
                   "requests that are read before they are answered; 1 answers each at once")
      ->check(CLI::Range(int64_t{1}, int64_t{100000}))
      ->capture_default_str();
  add_bos_flags(*command, flags->bos);
  add_emulate_option(*command, flags->emulate);
  command
      ->add_option("--threads", flags->threads, "threads to use; the result does not depend on it")
      ->check(CLI::Range(1, 4096));
  command->callback([flags] { run_loglikelihood(*flags); });
}

}  // namespace laos::cli
