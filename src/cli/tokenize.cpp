#include "cli/tokenize.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/bos_flags.h"
#include "cli/flags.h"
#include "core/error.h"
#include "hf/records.h"
#include "hf/tokenizer.h"

namespace laos::cli {
namespace {

constexpr size_t kMaxLineBytes = size_t{256} << 20;

struct Options {
  std::string model_path;
  std::string input;  // empty: standard input
  BosFlags bos;
};

// The next line without its ending; false at the end of the input.
bool read_line(std::istream& in, std::string& line, const std::string& where) {
  using Traits = std::istream::traits_type;
  line.clear();
  std::streambuf& buffer = *in.rdbuf();
  Traits::int_type c = buffer.sbumpc();
  if (c == Traits::eof()) return false;
  for (; c != Traits::eof() && c != '\n'; c = buffer.sbumpc()) {
    if (line.size() == kMaxLineBytes)
      throw Error(ErrorCode::kData, {.what = "a line of more than 256 MiB",
                                     .where = where,
                                     .fix = "put every text on a line of its own"});
    line.push_back(Traits::to_char_type(c));
  }
  return true;
}

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
  if (!out.flush())
    throw Error(ErrorCode::kIo, {.what = "cannot write the output",
                                 .where = "standard output",
                                 .fix = "check that the disk has space and the reader still runs"});
}

void run(const Options& options) {
  const hf::Tokenizer tokenizer = hf::Tokenizer::load(options.model_path, options.bos());
  if (options.input.empty())
    return tokenize_lines(tokenizer, std::cin, "standard input", std::cout);
  const auto unreadable = [&](const char* what) {
    return Error(ErrorCode::kIo, {.what = what, .where = options.input, .fix = "check the path"});
  };
  std::ifstream file(options.input, std::ios::binary);
  if (!file) throw unreadable("cannot open the input");
  try {
    tokenize_lines(tokenizer, file, options.input, std::cout);
  } catch (const std::ios_base::failure&) {  // a directory opens, and cannot be read
    throw unreadable("cannot read the input");
  }
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
