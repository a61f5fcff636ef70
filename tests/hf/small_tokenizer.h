// Tokenizers and files made up for tests.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "hf/tokenizer.h"

namespace laos::hf::test {

inline constexpr const char* kQwenPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// A directory of one test, removed at its end.
class TempDirectory {
 public:
  TempDirectory() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("laos_hf_test_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view text) const {
    const std::filesystem::path file = path_ / name;
    std::ofstream(file, std::ios::binary) << text;
    return file;
  }

 private:
  std::filesystem::path path_;
};

// How byte-level BPE writes `bytes`: the byte's own Latin-1 character if it prints, else one from
// U+0100.
inline std::string in_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    int character = byte;
    if (byte <= 0x20) character = 0x100 + byte;
    if (byte >= 0x7F && byte <= 0xA0) character = 0x121 + byte - 0x7F;
    if (byte == 0xAD) character = 0x143;
    if (character < 0x80) {
      text.push_back(static_cast<char>(character));
    } else {
      text.push_back(static_cast<char>(0xC0 | character >> 6));
      text.push_back(static_cast<char>(0x80 | (character & 0x3F)));
    }
  }
  return text;
}

// tokenizer.json of Qwen3's form: token b is byte b, token 256 + i the result of merges[i].
inline nlohmann::json small_tokenizer(
    const std::vector<std::pair<std::string, std::string>>& merges = {}) {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte)
    vocab[in_byte_alphabet(std::string(1, static_cast<char>(byte)))] = byte;
  nlohmann::json merge_list = nlohmann::json::array();
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    vocab[in_byte_alphabet(left + right)] = 256 + i;
    merge_list.push_back({in_byte_alphabet(left), in_byte_alphabet(right)});
  }
  return {{"added_tokens", nlohmann::json::array()},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers",
             {{{"type", "Split"},
               {"pattern", {{"Regex", kQwenPattern}}},
               {"behavior", "Isolated"},
               {"invert", false}},
              {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merge_list}}}};
}

inline nlohmann::json added_token(const std::string& content, int id) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

inline nlohmann::json small_tokenizer_with(std::vector<nlohmann::json> added_tokens) {
  nlohmann::json tokenizer = small_tokenizer();
  tokenizer["added_tokens"] = std::move(added_tokens);
  return tokenizer;
}

inline Tokenizer load_text(std::string_view tokenizer_json) {
  const TempDirectory directory;
  directory.write("tokenizer.json", tokenizer_json);
  return Tokenizer::load(directory.path());
}

inline Tokenizer load(const nlohmann::json& tokenizer_json) {
  return load_text(tokenizer_json.dump());
}

// The error that `action` throws.
template <class F>
Error error_of(F&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error was thrown";
  return Error(ErrorCode::kInternal, Problem{"no error was thrown", "", ""});
}

}  // namespace laos::hf::test
