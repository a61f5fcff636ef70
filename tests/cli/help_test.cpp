// Help where people look for it: laos help, manual pages, completions, exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/command.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using test::run_laos;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> all_commands() { return lines_of(run_laos("help --list").output); }

// The flags that `laos COMMAND --help` describes.
std::set<std::string> flags_of(const std::string& command) {
  std::set<std::string> flags;
  for (const std::string& line : lines_of(run_laos(command + " --help").output)) {
    if (!line.starts_with("  -")) continue;
    std::istringstream names(line.substr(2, line.find(' ', 2) - 2));
    for (std::string name; std::getline(names, name, ',');) flags.insert(name);
  }
  EXPECT_FALSE(flags.empty()) << command;
  return flags;
}

std::string squeezed(const std::string& text) {
  return std::regex_replace(text, std::regex("\\s+"), " ");
}

std::string text_of(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

bool is_installed(const std::string& program) {
  return std::system(("command -v " + program + " >/dev/null").c_str()) == 0;
}

class Completion : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* shell : {"bash", "zsh", "fish"})
      std::ofstream(directory_ / shell) << run_laos(std::string("completion ") + shell).output;
    std::filesystem::create_directory(directory_ / "model dir");
    std::ofstream(directory_ / "recipe.yaml") << "";
  }

  std::string run(const std::string& shell, const std::string& script) {
    std::ofstream(directory_ / "script") << script;
    const std::string command =
        "cd '" + directory_.path().string() + "' && " + shell + " script 2>&1";
    FILE* pipe = ::popen(command.c_str(), "r");
    std::string output;
    for (int c; (c = std::fgetc(pipe)) != EOF;) output += static_cast<char>(c);
    EXPECT_EQ(::pclose(pipe), 0) << output;
    return output;
  }

  // What bash offers behind each line, whose last word is the one to complete.
  std::vector<std::set<std::string>> in_bash(const std::vector<std::string>& lines) {
    std::string script = "set -u\nsource ./bash\n";
    for (const std::string& line : lines)
      script += "COMP_WORDS=(" + line + "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _laos\n" +
                "printf '%s\\n' \"${COMPREPLY[@]}\" --next--\n";
    std::vector<std::set<std::string>> all(1);
    for (const std::string& line : lines_of(run("bash", script)))
      if (line == "--next--")
        all.emplace_back();
      else if (!line.empty())
        all.back().insert(line);
    all.pop_back();
    EXPECT_EQ(all.size(), lines.size());
    all.resize(lines.size());
    return all;
  }
  std::set<std::string> in_bash(const std::string& line) {
    return in_bash(std::vector<std::string>{line}).front();
  }

  test::TemporaryDirectory directory_;
};

TEST(Help, OfACommandIsThatOfItsFlag) {
  EXPECT_EQ(run_laos("help").output, run_laos("--help").output);
  EXPECT_EQ(run_laos("help").output, run_laos("").output);
  for (const std::string& command : all_commands())
    EXPECT_EQ(run_laos("help " + command).output, run_laos(command + " --help").output);
}

TEST(Help, SaysTheVersionHoweverItIsAskedFor) {
  const test::CommandResult version = run_laos("version");
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_TRUE(std::regex_match(version.output, std::regex("laos [0-9.]+\n"))) << version.output;
  EXPECT_EQ(run_laos("-v").output, version.output);
  EXPECT_EQ(run_laos("--version").output, version.output);
}

TEST(Help, AnswersAWrongWordWithTheNearestOne) {
  const std::map<std::string, std::string> meant = {
      {"evl", "did you mean `laos eval`?"},
      {"help insect", "did you mean `laos help inspect`?"},
      {"help exit-code", "did you mean `laos help exit-codes`?"},
      {"quant --model-pth a", "did you mean --model-path?"},
      {"quant --formt=ascendv1", "did you mean --format?"},
      {"quant --model-path a --save-path b --format ascend1", "did you mean `ascendv1`?"},
      {"quant --model-path a --save-path b --quant-type=w4a44", "did you mean `w4a4`?"},
      {"--verison", "see laos --help"},
  };
  for (const auto& [words, answer] : meant) {
    const test::CommandResult result = run_laos(words);
    EXPECT_EQ(result.exit_code, 2) << words;
    EXPECT_THAT(result.output, HasSubstr(answer)) << words;
  }
}

// A flag that a message names is one that --help describes, in that spelling.
TEST(Help, AndErrorsSpellFlagsAlike) {
  // Besides: flags of mpirun and srun, and a line of a script for bash.
  std::set<std::string> known = {"--version", "--map-by", "--bind-to", "--mpi", "--i"};
  for (const std::string& command : all_commands()) known.merge(flags_of(command));
  for (const auto& file : std::filesystem::recursive_directory_iterator(LAOS_SOURCE_DIR "/src")) {
    if (file.path().extension() != ".cpp" && file.path().extension() != ".h") continue;
    for (const std::string& line : lines_of(text_of(file.path()))) {
      if (line.find('"') == std::string::npos || line.find("//") < line.find('"')) continue;
      const std::string text = line.substr(line.find('"'));
      const std::regex flag("--[a-z][a-z0-9]*([_-][a-z0-9]+)*");
      for (std::sregex_iterator found(text.begin(), text.end(), flag), end; found != end; ++found) {
        const std::string name = found->str();
        EXPECT_TRUE(known.contains(name)) << name << " in " << file.path() << ": " << line;
        // Names of both spellings are definitions.
        if (line.find("add_option") == std::string::npos) {
          EXPECT_THAT(name, Not(HasSubstr("_"))) << file.path() << ": " << line;
        }
      }
    }
  }
}

TEST(Help, AnUnknownModelTypeIsToldHowToNameARecipe) {
  const test::CommandResult result =
      run_laos("quant --model-type Qwen3-7B --quant-type w4a4 --model-path none --save-path none");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.output, HasSubstr("did you mean `Qwen3-4B`?"));
  EXPECT_THAT(result.output, HasSubstr("(see laos recipes); or name a recipe with --config-path"));
}

TEST(Help, ExitCodesAreThoseOfTheirPage) {
  std::string page;
  for (const std::string& line : lines_of(text_of(LAOS_SOURCE_DIR "/docs/exit-codes.md"))) {
    std::smatch row;
    if (std::regex_match(line, row, std::regex("\\| ([0-9]+) \\| (.*) \\|")))
      page += row[1].str() + " " + row[2].str() + " ";
  }
  EXPECT_EQ(squeezed(run_laos("help exit-codes").output), page);
}

TEST(Help, TellsOfEveryVariableThatIsRead) {
  std::set<std::string> told, read;
  for (const std::string& line : lines_of(run_laos("help environment").output))
    if (!line.starts_with(' ')) told.insert(line.substr(0, line.find(' ')));
  for (const auto& file : std::filesystem::recursive_directory_iterator(LAOS_SOURCE_DIR "/src")) {
    // Where they are told of; and the ranks' own, which launchers set.
    if (file.path().filename() == "manual.cpp" || !file.is_regular_file()) continue;
    const std::string text = text_of(file.path());
    const std::regex name("\"((LAOS|OMP|GOMP|XDG|MSMODELSLIM)_[A-Z_]+)\"");
    for (std::sregex_iterator found(text.begin(), text.end(), name), end; found != end; ++found)
      read.insert((*found)[1]);
  }
  EXPECT_EQ(told, read);
}

TEST(ManualPage, HoldsEveryFlagOfTheHelp) {
  for (const std::string& command : all_commands()) {
    const std::string page =
        std::regex_replace(run_laos("help --man " + command).output, std::regex(R"(\\-)"), "-");
    for (const char* section :
         {"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "SEE ALSO"})
      EXPECT_THAT(page, HasSubstr(std::string("\n.SH ") + section + "\n")) << command;
    for (const std::string& flag : flags_of(command))
      EXPECT_THAT(page, HasSubstr("\\fB" + flag + "\\fR")) << command;
  }
}

TEST(ManualPage, RendersWithoutAWarning) {
  if (!is_installed("man") || !is_installed("groff")) GTEST_SKIP() << "no man here";
  const test::TemporaryDirectory directory;
  std::vector<std::string> pages = all_commands();
  pages.emplace_back("");
  for (const std::string& command : pages) {
    const std::string file = (directory / "page.1").string();
    std::ofstream(file) << run_laos("help --man " + command).output;
    EXPECT_EQ(std::system(("test -z \"$(groff -man -ww -z '" + file + "' 2>&1)\"").c_str()), 0)
        << command;
  }
}

TEST_F(Completion, OffersEveryFlagOfTheHelpInBash) {
  std::vector<std::string> lines;
  std::vector<std::set<std::string>> expected;
  for (const std::string& command : all_commands()) {
    expected.emplace_back();
    lines.push_back("laos " + command + " -");
    for (const std::string& flag : flags_of(command)) {
      if (flag.find('_') == std::string::npos) expected.back().insert(flag);
    }
    for (const std::string& flag : flags_of(command)) {
      if (flag.find('_') == std::string::npos) continue;
      lines.push_back("laos " + command + " " + flag);
      expected.push_back({flag});
    }
  }
  const std::vector<std::set<std::string>> offered = in_bash(lines);
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(offered[i], expected[i]) << lines[i];
}

TEST_F(Completion, OffersWhatAValueCanBeInBash) {
  using Words = std::set<std::string>;
  const std::vector<std::string> commands = all_commands();
  Words first(commands.begin(), commands.end());
  first.insert({"-h", "--help", "-v", "--version"});
  const std::vector<std::pair<std::string, Words>> expected = {
      {"laos ''", first},
      {"laos ev", {"eval"}},
      {"laos quant --fo", {"--follow-links", "--format"}},
      {"laos quant --format ''", {"ascendv1", "compressed-tensors", "gptq"}},
      {"laos quant --format = comp", {"compressed-tensors"}},
      {"laos quant --format =", {"ascendv1", "compressed-tensors", "gptq"}},
      {"laos quant --quant_type w8a8", {"w8a8", "w8a8s", "w8a8c8", "w8a8f8"}},
      {"laos quant --model-path m", {"model dir"}},
      {"laos quant --config-path r", {"recipe.yaml"}},
      {"laos quant --threads ''", {}},
      // One directory, then what comes next; eval takes several.
      {"laos quant --model-path a m", {}},
      {"laos eval --model-path a m", {"model dir"}},
      {"laos check m", {"model dir"}},
      {"laos check --strict m", {"model dir"}},
      {"laos help quan", {"quant"}},
      {"laos completion ''", {"bash", "zsh", "fish"}},
      {"laos nonsense ''", {}},
  };
  std::vector<std::string> lines;
  for (const auto& [line, words] : expected) lines.push_back(line);
  const std::vector<Words> offered = in_bash(lines);
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(offered[i], expected[i].second) << lines[i];
}

TEST_F(Completion, IsReadByZshAndFishAndHoldsEveryFlagThere) {
  const std::string zsh = text_of(directory_ / "zsh"), fish = text_of(directory_ / "fish");
  for (const std::string& command : all_commands()) {
    const size_t begin = zsh.find("\n    " + command + ")\n");
    ASSERT_NE(begin, std::string::npos) << command;
    const std::string part = zsh.substr(begin, zsh.find(";;", begin) - begin);
    for (const std::string& flag : flags_of(command)) {
      EXPECT_TRUE(std::regex_search(part, std::regex("'!?\\*?" + flag + "=?\\["))) << flag;
      const std::string option =
          flag.starts_with("--") ? " -l " + flag.substr(2) : " -s " + flag.substr(1);
      EXPECT_TRUE(std::regex_search(
          fish, std::regex("seen_subcommand_from " + command + "[^\n]*" + option + " ")))
          << command << " " << flag;
    }
  }
  for (const char* shell : {"zsh", "fish"})
    if (is_installed(shell)) {
      EXPECT_THAT(run("sh", std::string(shell) + " -n ./" + shell), IsEmpty());
    }
  if (!is_installed("fish")) GTEST_SKIP() << "no fish here";
  const std::string offered =
      run("fish", "source ./fish; complete -C 'laos quant --format '; complete -C 'laos ev'");
  EXPECT_THAT(offered, HasSubstr("compressed-tensors"));
  EXPECT_THAT(offered, HasSubstr("eval"));
}

}  // namespace
}  // namespace laos::cli
