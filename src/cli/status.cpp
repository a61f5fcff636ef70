#include "cli/status.h"

#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/units.h"
#include "hf/quantized_checkpoint.h"
#include "save/format.h"
#include "save/work_directory.h"

namespace laos::cli {
namespace {

using Json = nlohmann::ordered_json;

// Finished checkpoints in it; those of several formats each in a directory of its own.
std::vector<std::string> checkpoints_in(const std::string& directory) {
  std::vector<std::string> found;
  if (hf::format_of(directory)) found.push_back(directory);
  for (const save::Format* format : save::formats()) {
    const std::filesystem::path path = std::filesystem::path(directory) / format->name();
    if (hf::format_of(path) == format->id()) found.push_back(path.string());
  }
  return found;
}

const char* state_of(const save::WorkStatus& status, bool has_checkpoint) {
  if (status.is_running) return "running";
  if (status.has_work) return "interrupted";
  return has_checkpoint ? "done" : "empty";
}

// Of the layer at work: where it is and how long it and the job will take. Empty where it is not
// known.
std::string at_work(const save::WorkStatus& status) {
  const auto now = nlohmann::json::parse(status.now, nullptr, /*allow_exceptions=*/false);
  if (!now.is_object()) return "";
  const auto number = [&](const char* key) {
    const auto found = now.find(key);
    return found != now.end() && found->is_number() ? found->get<double>() : -1.0;
  };
  const auto part = now.find("part");
  if (part == now.end() || !part->is_string()) return "";
  std::string text = part->get<std::string>();
  char piece[96];
  if (number("share") >= 0) {
    std::snprintf(piece, sizeof piece, " %.0f %%", 100 * number("share"));
    text += piece;
  }
  if (number("layer") > 0 && number("iterations") > 0) {
    std::snprintf(piece, sizeof piece, ", layer %.0f, iteration %.0f of %.0f", number("layer"),
                  number("iteration"), number("iterations"));
    text += piece;
  }
  if (number("layer_seconds_left") >= 0)
    text += ", " + rough_duration_text(number("layer_seconds_left")) + " left of the layer";
  if (number("seconds_left") >= 0)
    text += ", " + rough_duration_text(number("seconds_left")) + " left in all";
  return text;
}

void print_text(const std::string& directory, const save::WorkStatus& status,
                const std::vector<std::string>& checkpoints) {
  const bool has_checkpoint = !checkpoints.empty();
  if (status.has_work)
    std::printf("%s: %s\n", directory.c_str(),
                status.is_running ? "a run is at work" : "a run was interrupted");
  else if (!has_checkpoint)
    std::printf("%s: nothing of laos\n", directory.c_str());
  else
    for (const std::string& checkpoint : checkpoints)
      std::printf("%s: a finished checkpoint\n", checkpoint.c_str());
  for (const auto& [kind, parts] : status.parts)
    if (parts.planned > 0)
      std::printf("  %-10s %lld of %lld\n", kind.c_str(), static_cast<long long>(parts.done),
                  static_cast<long long>(parts.planned));
  if (const std::string text = at_work(status); !text.empty())
    std::printf("  %-10s %s\n", "at work", text.c_str());
  if (status.has_work && has_checkpoint)
    std::printf("the checkpoint of an earlier run is there until this one is done\n");
  if (status.has_work && !status.is_running)
    std::printf("the same command goes on from there; with --restart it begins again\n");
  if (!status.has_work && has_checkpoint) std::printf("laos inspect --verify checks its files\n");
}

void print_json(const std::string& directory, const save::WorkStatus& status, bool has_checkpoint) {
  Json json = {{"directory", directory}, {"state", state_of(status, has_checkpoint)}};
  json["parts"] = Json::object();
  for (const auto& [kind, parts] : status.parts)
    if (parts.planned > 0) json["parts"][kind] = {{"done", parts.done}, {"planned", parts.planned}};
  if (const Json now = Json::parse(status.now, nullptr, false); now.is_object())
    json["at_work"] = now;
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
    const std::vector<std::string> checkpoints = checkpoints_in(options->directory);
    if (options->as_json)
      print_json(options->directory, status, !checkpoints.empty());
    else
      print_text(options->directory, status, checkpoints);
  });
}

}  // namespace laos::cli
