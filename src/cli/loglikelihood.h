// `laos loglikelihood`: how likely continuations are, for programs that ask.
#pragma once

#include <CLI/App.hpp>

namespace laos::cli {

// Adds the subcommand `loglikelihood`; its callback does the work. It reads JSON lines {"context":
// ..., "continuation": ...} and writes {"logprob": x, "greedy": true} for each, in order, as soon
// as --batch of them were read. Throws Error(kData) naming the line that is wrong, behind the
// answers to those before it, and Error(kIo) when the output cannot be written.
void add_loglikelihood_command(CLI::App& app);

}  // namespace laos::cli
