// `--emulate`: the arithmetic of the engine that will serve a checkpoint.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>

#include "eval/eval_model.h"

namespace laos::cli {

void add_emulate_option(CLI::App& command, std::string& engine);
// Of the engine's name; "" is exact.
eval::Arithmetic arithmetic_of(const std::string& engine);
// At its end, also when that is an error, warns on stderr where outputs of W4A4 linears were too
// large for f16: the linear and its largest output, the worst first.
class OverflowReport {
 public:
  // `model` must outlive this.
  OverflowReport(std::string model_path, const eval::EvalModel& model)
      : model_path_(std::move(model_path)), model_(model) {}
  ~OverflowReport();
  OverflowReport(const OverflowReport&) = delete;
  OverflowReport& operator=(const OverflowReport&) = delete;

 private:
  std::string model_path_;
  const eval::EvalModel& model_;
};

}  // namespace laos::cli
