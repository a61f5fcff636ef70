// A small checkpoint whose text says whether an engine computes W4A4_FLATQUANT_DYNAMIC as laos
// means it: with the transforms the right way round, and with the clip.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

namespace laos::save {

// What such a checkpoint is asked, greedily and as plain text.
inline constexpr std::string_view kSelftestPrompt = "This engine";

// How it may go on, and what that says of the engine. The first answer is the right one.
struct SelftestAnswer {
  std::string_view text;
  std::string_view meaning;
};
std::span<const SelftestAnswer> selftest_answers() noexcept;

// Writes it: a Qwen3 model of two layers, hidden_size 384, whose gate_proj and up_proj are
// W4A4_FLATQUANT_DYNAMIC. Throws Error as CheckpointWriter does.
void write_selftest(const std::filesystem::path& save_path);

}  // namespace laos::save
