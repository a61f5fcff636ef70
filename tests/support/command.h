// The program as users run it.
#pragma once

#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

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

// The same on a terminal of its own; what it draws over is in the output too.
inline CommandResult run_laos_on_terminal(const std::string& arguments) {
  int terminal = -1;
  const pid_t child = ::forkpty(&terminal, nullptr, nullptr, nullptr);
  if (child < 0) return {};
  const std::string command = std::string("exec '") + LAOS_BINARY + "' " + arguments;
  if (child == 0) {
    ::execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  CommandResult result;
  std::array<char, 4096> piece;
  // A terminal whose other end is closed is an error to read.
  for (ssize_t count; (count = ::read(terminal, piece.data(), piece.size())) > 0;)
    result.output.append(piece.data(), static_cast<size_t>(count));
  ::close(terminal);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

}  // namespace laos::test
