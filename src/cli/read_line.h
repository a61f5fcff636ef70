// Lines of requests, read as they come, and their answers.
#pragma once

#include <fstream>
#include <iostream>
#include <istream>
#include <ostream>
#include <string>

#include "core/error.h"

namespace laos::cli {

inline constexpr size_t kMaxLineBytes = size_t{256} << 20;

// The next line without its ending; false at the end of the input. Throws Error(kData), naming
// `where`, on one of more than kMaxLineBytes.
inline bool read_line(std::istream& in, std::string& line, const std::string& where) {
  using Traits = std::istream::traits_type;
  line.clear();
  std::streambuf& buffer = *in.rdbuf();
  Traits::int_type c = buffer.sbumpc();
  if (c == Traits::eof()) return false;
  for (; c != Traits::eof() && c != '\n'; c = buffer.sbumpc()) {
    if (line.size() == kMaxLineBytes)
      throw Error(ErrorCode::kData, {.what = "a line of more than 256 MiB",
                                     .where = where,
                                     .fix = "put every text on a line of its own"});
    line.push_back(Traits::to_char_type(c));
  }
  return true;
}

// Throws Error(kIo) where what was answered cannot be written.
inline void flush_answers(std::ostream& out) {
  if (!out.flush())
    throw Error(ErrorCode::kIo, {.what = "cannot write the output",
                                 .where = "standard output",
                                 .fix = "check that the disk has space and the reader still runs"});
}

// Calls read(stream, name) with the file or, where its name is empty or `-`, standard input. Throws
// Error(kIo) when it cannot be read.
template <class Read>
void with_input(const std::string& name, Read&& read) {
  if (name.empty() || name == "-") return read(std::cin, "standard input");
  const auto unreadable = [&](const char* what) {
    return Error(ErrorCode::kIo, {.what = what, .where = name, .fix = "check the path"});
  };
  std::ifstream file(name, std::ios::binary);
  if (!file) throw unreadable("cannot open the input");
  try {
    read(file, name);
  } catch (const std::ios_base::failure&) {  // a directory opens, and cannot be read
    throw unreadable("cannot read the input");
  }
}

}  // namespace laos::cli
