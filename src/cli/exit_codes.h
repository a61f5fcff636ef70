// Every exit code that the program gives.
#pragma once

#include <array>
#include <csignal>

namespace laos::cli {

inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kSignal = 128;  // and the number of the signal that asked to stop

struct ExitCode {
  int code;
  const char* meaning;
};
inline constexpr std::array<ExitCode, 6> kExitCodes = {{
    {kDone, "done"},
    {kFailed,
     "could not be done, standard error says why; or it was done and what was found is bad: a "
     "verdict of quant or check that is broken (with --strict also one that is degraded, with "
     "--lenient neither), a plan of quant --dry-run that would be refused, a checkpoint that "
     "inspect's engine does not load or whose files --verify does not find as they were written"},
    {kUsage, "the command line, or a variable of the environment, makes no sense"},
    {kSignal + SIGINT,
     "stopped by SIGINT (Ctrl-C); what a run of quant had finished is kept, and the same command "
     "goes on from there"},
    {kSignal + SIGTERM, "stopped by SIGTERM, likewise"},
    {kSignal + SIGHUP, "stopped by SIGHUP (a closed terminal), likewise"},
}};

}  // namespace laos::cli
