// The program as users run it.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace laos::test {

struct CommandResult {
  int exit_code = -1;  // -1: ended by a signal, or not started
  std::string output;  // stdout and stderr, unless redirected
};

// Runs `laos ARGUMENTS` through the shell, with `before` in front of it.
inline CommandResult run_laos(const std::string& arguments, const std::string& before = "") {
  const std::string command = before + "'" + LAOS_BINARY + "' " + arguments + " 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  CommandResult result;
  std::array<char, 4096> piece;
  while (const size_t count = std::fread(piece.data(), 1, piece.size(), pipe))
    result.output.append(piece.data(), count);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

}  // namespace laos::test
