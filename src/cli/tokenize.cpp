#include "cli/tokenize.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/bos_flags.h"
#include "cli/flags.h"
#include "cli/read_line.h"
#include "core/error.h"
#include "hf/records.h"
#include "hf/tokenizer.h"

namespace laos::cli {
namespace {

struct Options {
  std::string model_path;
  std::string input;  // empty: standard input
  BosFlags bos;
};

void tokenize_lines(const hf::Tokenizer& tokenizer, std::istream& in, const std::string& name,
                    std::ostream& out) {
  std::string line;
  for (int64_t number = 1;; ++number) {
    const std::string where = name + ":" + std::to_string(number);
    if (!read_line(in, line, where)) break;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const hf::Record record = hf::record_of_line(line, where);
    if (!record.messages.empty() || !record.ids.empty())
      throw Error(ErrorCode::kData, {.what = "the line holds no text",
                                     .where = where,
                                     .fix = "write {\"text\": \"...\"} on every line"});
    const std::vector<int32_t> ids = tokenizer.add_special(tokenizer.encode(record.text));
    const nlohmann::ordered_json answer = {{"ids", ids}, {"decoded", tokenizer.decode(ids)}};
    out << answer.dump() << '\n';
  }
  flush_answers(out);
}

void run(const Options& options) {
  const hf::Tokenizer tokenizer = hf::Tokenizer::load(options.model_path, options.bos());
  with_input(options.input, [&](std::istream& in, const std::string& name) {
    tokenize_lines(tokenizer, in, name, std::cout);
  });
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "tokenize", "Token ids of texts: JSON lines with `text` in, `ids` and `decoded` out");
  command
      ->add_option(both_spellings("--model-path"), options->model_path,
                   "Checkpoint directory with tokenizer.json")
      ->required();
  command->add_option("--input", options->input, "JSON lines to read instead of standard input");
  add_bos_flags(*command, options->bos);
  command->callback([options] { run(*options); });
}

}  // namespace laos::cli
