#include "cli/prefixes.h"

#include "core/error.h"

namespace laos::cli {
namespace {

// The whole word for `word`, a long flag and perhaps `=value`; `word` itself when no flag of
// `command` begins so.
std::string completed(const CLI::App& command, const std::string& word) {
  const size_t end = word.find('=');
  const std::string name = word.substr(2, end == std::string::npos ? end : end - 2);
  std::string found, candidates;
  int num_found = 0;
  for (const CLI::Option* option : command.get_options()) {
    bool begins = false;  // one flag has two spellings
    for (const std::string& spelling : option->get_lnames()) {
      if (spelling == name) return word;
      if (begins || !spelling.starts_with(name)) continue;
      begins = true;
      found = spelling;
      candidates += (candidates.empty() ? "--" : ", --") + spelling;
    }
    num_found += begins ? 1 : 0;
  }
  if (num_found == 0) return word;
  if (num_found == 1) return "--" + found + (end == std::string::npos ? "" : word.substr(end));
  throw Error(ErrorCode::kUsage, {.what = "--" + name + " could be " + candidates,
                                  .where = "command line",
                                  .fix = "write the flag out"});
}

}  // namespace

std::vector<std::string> complete_flags(const CLI::App& app, std::vector<std::string> words) {
  const std::vector<const CLI::App*> commands = app.get_subcommands([&](const CLI::App* command) {
    return !words.empty() && command->get_name() == words.front();
  });
  if (commands.empty()) return words;
  for (size_t i = 1; i < words.size() && words[i] != "--"; ++i)
    if (words[i].size() > 2 && words[i].starts_with("--"))
      words[i] = completed(*commands.front(), words[i]);
  return words;
}

}  // namespace laos::cli
