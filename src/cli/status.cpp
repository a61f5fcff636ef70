#include "cli/status.h"

#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "hf/ascendv1.h"
#include "save/work_directory.h"

namespace laos::cli {
namespace {

const char* state_of(const save::WorkStatus& status, bool has_checkpoint) {
  if (status.is_running) return "running";
  if (status.has_work) return "interrupted";
  return has_checkpoint ? "done" : "empty";
}

void print_text(const std::string& directory, const save::WorkStatus& status, bool has_checkpoint) {
  std::printf("%s: ", directory.c_str());
  if (status.is_running)
    std::printf("a run is at work\n");
  else if (status.has_work)
    std::printf("a run was interrupted\n");
  else
    std::printf("%s\n", has_checkpoint ? "a finished checkpoint" : "nothing of laos");
  for (const auto& [kind, parts] : status.parts)
    if (parts.planned > 0)
      std::printf("  %-10s %lld of %lld\n", kind.c_str(), static_cast<long long>(parts.done),
                  static_cast<long long>(parts.planned));
  if (status.has_work && has_checkpoint)
    std::printf("the checkpoint of an earlier run is there until this one is done\n");
  if (status.has_work && !status.is_running)
    std::printf("the same command goes on from there; with --restart it begins again\n");
  if (!status.has_work && has_checkpoint) std::printf("laos inspect --verify checks its files\n");
}

void print_json(const std::string& directory, const save::WorkStatus& status, bool has_checkpoint) {
  using Json = nlohmann::ordered_json;
  Json json = {{"directory", directory}, {"state", state_of(status, has_checkpoint)}};
  json["parts"] = Json::object();
  for (const auto& [kind, parts] : status.parts)
    if (parts.planned > 0) json["parts"][kind] = {{"done", parts.done}, {"planned", parts.planned}};
  json["identity"] = Json(status.identity);
  std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

}  // namespace

void add_status_command(CLI::App& app) {
  struct Options {
    std::string directory;
    bool as_json = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("status", "Show how far a run of laos quant is, at work or interrupted");
  command->add_option("DIR", options->directory, "the run's --save-path")->required();
  command->add_flag("--json", options->as_json, "print it as JSON");
  command->callback([options] {
    std::error_code error;
    if (!std::filesystem::is_directory(options->directory, error))
      throw Error(ErrorCode::kIo, {.what = "not a directory",
                                   .where = options->directory,
                                   .fix = "give the --save-path of a run"});
    const save::WorkStatus status = save::work_status(options->directory);
    const bool has_checkpoint = hf::AscendV1Checkpoint::is_ascendv1(options->directory);
    if (options->as_json)
      print_json(options->directory, status, has_checkpoint);
    else
      print_text(options->directory, status, has_checkpoint);
  });
}

}  // namespace laos::cli
