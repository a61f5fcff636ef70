#include "cli/convert.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "save/convert.h"
#include "save/inspect.h"
#include "scheme/schemes.h"

namespace laos::cli {

void add_convert_command(CLI::App& app) {
  struct Options {
    std::string directory, to, save_path;
    int64_t ranks = 0;  // 0: another format
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "convert",
      "Write a quantized checkpoint in another format, or for another tensor parallel size");
  command->add_option("DIR", options->directory, "quantized checkpoint directory")->required();
  std::vector<std::string> formats;
  for (const save::Format* format : save::formats()) formats.emplace_back(format->name());
  CLI::Option* to =
      command->add_option("--to", options->to, "format to write")->check(CLI::IsMember(formats));
  command
      ->add_option("--tp", options->ranks,
                   "tensor parallel size to serve, of a checkpoint that laos quant --online --tp "
                   "made for several: their matrices alone change")
      ->check(CLI::Range(int64_t{1}, scheme::kMaxTensorParallel))
      ->excludes(to);
  command->add_option("--save-path,--save_path", options->save_path, "directory to write")
      ->required();
  command->add_flag("--json", options->json, "print a JSON object");
  command->callback([options] {
    if (options->to.empty() && options->ranks == 0)
      throw Error(ErrorCode::kUsage, {.what = "neither a format nor a tensor parallel size",
                                      .where = "laos convert",
                                      .fix = "say what to write: --to FORMAT or --tp N"});
    for (const save::Format* format : save::formats())
      if (format->name() == options->to)
        save::convert(options->directory, *format, options->save_path);
    if (options->ranks > 0)
      save::convert_to_ranks(options->directory, options->ranks, options->save_path);
    nlohmann::ordered_json json = {{"directory", options->directory}};
    if (options->ranks > 0)
      json["tensor_parallel_size"] = options->ranks;
    else
      json["format"] = options->to;
    json["save_path"] = options->save_path;
    if (options->json)
      std::printf("%s\n",
                  json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    else
      std::printf("written   %s\n", options->save_path.c_str());
  });
}

}  // namespace laos::cli
