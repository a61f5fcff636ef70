// `laos eval`: how well a checkpoint predicts a text.
#pragma once

#include <CLI/App.hpp>

namespace laos::cli {

// Adds the subcommand `eval`; its callback does the work and prints to stdout. Throws what
// eval::open_eval_model, hf::load_dataset and eval::compare throw.
void add_eval_command(CLI::App& app);

}  // namespace laos::cli
