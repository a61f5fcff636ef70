#include "cli/selftest.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "save/selftest.h"

namespace laos::cli {

void add_selftest_command(CLI::App& app) {
  const auto save_path = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "selftest-checkpoint",
      "Write a small checkpoint whose text says whether an engine computes transforms and clip "
      "(quant --online) right");
  command->add_option("--save-path,--save_path", *save_path, "directory to write")->required();
  command->callback([save_path] {
    save::write_selftest(*save_path);
    std::printf("saved     %s\n", save_path->c_str());
    std::printf(
        "Serve it as other checkpoints of laos, and let it go on, greedily and without a chat "
        "template, with\n  %s\nIts answer says what the engine's kernels do:\n",
        std::string(save::kSelftestPrompt).c_str());
    size_t width = 0;
    for (const save::SelftestAnswer& answer : save::selftest_answers())
      width = std::max(width, answer.text.size());
    for (const save::SelftestAnswer& answer : save::selftest_answers())
      std::printf(" %-*s  %s\n", static_cast<int>(width), std::string(answer.text).c_str(),
                  std::string(answer.meaning).c_str());
  });
}

}  // namespace laos::cli
