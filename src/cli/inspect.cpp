#include "cli/inspect.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "core/units.h"
#include "core/words.h"
#include "save/inspect.h"

namespace laos::cli {
namespace {

// Names come out of the checkpoint: nothing in them may steer the terminal.
std::string printable(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

std::string to_text(const save::InspectReport& report) {
  std::ostringstream text;
  text << report.directory.string() << ": "
       << (report.model_quant_type.empty() ? "not quantized" : printable(report.model_quant_type))
       << ", " << report.parameters << " parameters, " << bytes_text(report.bytes) << " in "
       << report.files << (report.files == 1 ? " file\n" : " files\n");

  if (!report.labels.empty()) {
    size_t width = 5;
    for (const save::LabelTotals& totals : report.labels)
      width = std::max(width, totals.label.size());
    const auto line = [&](const std::string& label, const std::string& weights,
                          const std::string& parameters, const std::string& bytes) {
      text << "  " << std::left << std::setw(static_cast<int>(width)) << label << std::right
           << std::setw(9) << weights << std::setw(16) << parameters << std::setw(12) << bytes
           << '\n';
    };
    text << '\n';
    line("label", "weights", "parameters", "size");
    for (const save::LabelTotals& totals : report.labels)
      line(printable(totals.label), std::to_string(totals.weights),
           std::to_string(totals.parameters), bytes_text(totals.bytes));
  }

  text << '\n';
  for (const save::Finding& finding : report.findings) {
    text << save::name_of(finding.severity) << ": " << printable(finding.what)
         << "\n  at:  " << printable(finding.where);
    if (finding.count > 1) text << " and " << finding.count - 1 << " more";
    text << '\n';
    if (!finding.fix.empty()) text << "  fix: " << printable(finding.fix) << '\n';
  }
  if (report.verified && !report.verified->has_manifest)
    text << "Nothing was verified.\n";
  else if (report.verified)
    text << report.verified->files << (report.verified->files == 1 ? " file" : " files") << ", "
         << bytes_text(report.verified->bytes) << ", verified against " << save::kManifestFile
         << '\n';
  std::vector<std::string> others;
  for (const int64_t size : report.other_tensor_parallel_sizes)
    others.push_back(std::to_string(size));
  if (report.tensor_parallel_size > 0)
    text << "Some of its matrices are those of one rank: it serves tensor parallel size "
         << report.tensor_parallel_size
         << (others.empty()
                 ? " alone.\n"
                 : "; laos convert --tp makes it serve " + listed(others, "or") + " instead.\n");
  text << scheme::row_of(report.engine).title
       << (report.loads() ? " can load this checkpoint.\n"
                          : " cannot load this checkpoint as it was meant.\n");
  return text.str();
}

std::string to_json(const save::InspectReport& report) {
  nlohmann::ordered_json json;
  json["directory"] = report.directory.string();
  json["engine"] = scheme::row_of(report.engine).name;
  json["engine_version"] = scheme::row_of(report.engine).version;
  json["loads"] = report.loads();
  json["model_quant_type"] = report.model_quant_type;
  if (report.tensor_parallel_size > 0) {
    json["tensor_parallel_size"] = report.tensor_parallel_size;
    json["other_tensor_parallel_sizes"] = report.other_tensor_parallel_sizes;
  }
  json["files"] = report.files;
  json["parameters"] = report.parameters;
  json["bytes"] = report.bytes;
  if (report.verified)
    json["verified"] = {{"files", report.verified->files}, {"bytes", report.verified->bytes}};
  json["labels"] = nlohmann::ordered_json::array();
  for (const save::LabelTotals& totals : report.labels)
    json["labels"].push_back({{"label", totals.label},
                              {"weights", totals.weights},
                              {"parameters", totals.parameters},
                              {"bytes", totals.bytes}});
  json["findings"] = nlohmann::ordered_json::array();
  for (const save::Finding& finding : report.findings)
    json["findings"].push_back({{"severity", save::name_of(finding.severity)},
                                {"what", finding.what},
                                {"where", finding.where},
                                {"fix", finding.fix},
                                {"count", finding.count}});
  // A path need not be UTF-8; the report must not fail over that.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

void add_inspect_command(CLI::App& app, int& exit_code) {
  struct Options {
    std::string directory;
    bool as_json = false;
    std::string engine;
    save::InspectOptions what;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "inspect", "Show what a quantized checkpoint holds and whether an engine loads it");
  command
      ->add_option("DIR", options->directory,
                   "directory of the checkpoint, in any format that laos writes")
      ->required();
  command->add_flag("--json", options->as_json, "print the report as JSON");
  command->add_flag(
      "--verify", options->what.verify_files,
      "also hold every file against its checksum in SHA256SUMS; exits with 1 where there is none");
  std::vector<std::string> engines;
  for (const scheme::EngineRow& row : scheme::kEngines) engines.emplace_back(row.name);
  command
      ->add_option(
          "--engine", options->engine,
          "the engine that is to load it (default: vllm-ascend for AscendV1, else transformers)")
      ->check(CLI::IsMember(engines));
  command->callback([options, &exit_code] {
    for (const scheme::EngineRow& row : scheme::kEngines)
      if (row.name == options->engine) options->what.engine = row.engine;
    const save::InspectReport report = save::inspect(options->directory, options->what);
    std::cout << (options->as_json ? to_json(report) : to_text(report)) << std::flush;
    const bool is_verified = !report.verified || report.verified->has_manifest;
    exit_code = report.loads() && is_verified ? 0 : 1;
  });
}

}  // namespace laos::cli
