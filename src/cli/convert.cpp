#include "cli/convert.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "save/convert.h"

namespace laos::cli {

void add_convert_command(CLI::App& app) {
  struct Options {
    std::string directory, to, save_path;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("convert", "Write a quantized checkpoint in another format");
  command->add_option("DIR", options->directory, "quantized checkpoint directory")->required();
  std::vector<std::string> formats;
  for (const save::Format* format : save::formats()) formats.emplace_back(format->name());
  command->add_option("--to", options->to, "format to write")
      ->required()
      ->check(CLI::IsMember(formats));
  command->add_option("--save-path,--save_path", options->save_path, "directory to write")
      ->required();
  command->add_flag("--json", options->json, "print a JSON object");
  command->callback([options] {
    for (const save::Format* format : save::formats())
      if (format->name() == options->to)
        save::convert(options->directory, *format, options->save_path);
    if (options->json)
      std::printf("%s\n", nlohmann::ordered_json({{"directory", options->directory},
                                                  {"format", options->to},
                                                  {"save_path", options->save_path}})
                              .dump(2, ' ', false, nlohmann::json::error_handler_t::replace)
                              .c_str());
    else
      std::printf("written   %s\n", options->save_path.c_str());
  });
}

}  // namespace laos::cli
