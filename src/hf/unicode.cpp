#include "hf/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <vector>

#include "core/error.h"

namespace laos::hf {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// Every character from U+0300 on, and none below, has a first byte of at least this.
constexpr unsigned char kFirstByteOfU0300 = 0xCC;

struct Range {
  int32_t first;
  int32_t last;
};

// What Unicode 10 to 15 gave combining classes and compositions to. The Hugging Face library
// normalises by Unicode 9, where these neither move nor compose; token ids must be the ones a model
// was trained on.
constexpr Range kInert[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
    {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}};

bool is_inert(int32_t c) noexcept {
  const Range* range =
      std::lower_bound(std::begin(kInert), std::end(kInert), c,
                       [](const Range& r, int32_t value) { return r.last < value; });
  return range != std::end(kInert) && range->first <= c;
}

unsigned char byte_at(std::string_view text, size_t i) noexcept {
  return static_cast<unsigned char>(text[i]);
}

bool is_continuation(unsigned char byte) noexcept { return (byte & 0xC0) == 0x80; }

size_t ascii_prefix(std::string_view text) noexcept {
  size_t i = 0;
  for (; i + sizeof(uint64_t) <= text.size(); i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, sizeof(word));
    if ((word & 0x8080808080808080U) != 0) break;
  }
  while (i < text.size() && byte_at(text, i) < 0x80) ++i;
  return i;
}

bool is_white_space(int32_t c) noexcept {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

void append_utf8(int32_t c, std::string& out) {
  std::array<utf8proc_uint8_t, 4> bytes = {};
  const auto length = utf8proc_encode_char(c, bytes.data());
  out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(length));
}

void append_canonical_decomposition(int32_t c, std::vector<utf8proc_int32_t>& out) {
  std::array<utf8proc_int32_t, 32> buffer = {};  // Unicode guarantees at most 4
  const auto length = utf8proc_decompose_char(
      c, buffer.data(), static_cast<utf8proc_ssize_t>(buffer.size()),
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), nullptr);
  LAOS_ASSERT(length > 0 && length <= std::ssize(buffer));
  out.insert(out.end(), buffer.begin(), buffer.begin() + length);
}

int combining_class(int32_t c) noexcept { return utf8proc_get_property(c)->combining_class; }

// Canonical ordering. Not utf8proc's, which takes quadratic time on a long run of marks.
void sort_combining_marks(std::vector<utf8proc_int32_t>& characters) {
  auto begin = characters.begin();
  while (begin != characters.end()) {
    const auto mark = [](int32_t c) { return combining_class(c) != 0; };
    begin = std::find_if(begin, characters.end(), mark);
    const auto end = std::find_if_not(begin, characters.end(), mark);
    std::stable_sort(begin, end,
                     [](int32_t a, int32_t b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

// Appends the composition of canonically decomposed `characters`, and clears them.
void append_composed(std::vector<utf8proc_int32_t>& characters, std::string& out) {
  sort_combining_marks(characters);
  const auto length =
      utf8proc_normalize_utf32(characters.data(), std::ssize(characters),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  LAOS_ASSERT(length >= 0);
  for (size_t i = 0; i < static_cast<size_t>(length); ++i) append_utf8(characters[i], out);
  characters.clear();
}

void append_nfc(std::string_view text, std::vector<utf8proc_int32_t>& scratch, std::string& out) {
  while (!text.empty()) {
    const int32_t c = code_point(text);
    text.remove_prefix(utf8_step(text).length);
    if (is_inert(c)) {
      append_composed(scratch, out);
      append_utf8(c, out);
    } else {
      append_canonical_decomposition(c, scratch);
    }
  }
  append_composed(scratch, out);
}

}  // namespace

Utf8Step utf8_step(std::string_view text) noexcept {
  const unsigned char lead = byte_at(text, 0);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range shuts out overlong forms, surrogates and what is beyond U+10FFFF.
  unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (i >= text.size() || byte_at(text, i) < low || byte_at(text, i) > high) return {i, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true};
}

int32_t code_point(std::string_view text) noexcept {
  utf8proc_int32_t value = 0;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(std::min<size_t>(text.size(), 4)), &value);
  return value;
}

size_t first_invalid_utf8(std::string_view text) noexcept {
  size_t i = 0;
  while (true) {
    i += ascii_prefix(text.substr(i));
    if (i == text.size()) return std::string_view::npos;
    const Utf8Step step = utf8_step(text.substr(i));
    if (!step.valid) return i;
    i += step.length;
  }
}

std::string utf8_lossy(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Step step = utf8_step(bytes);
    text.append(step.valid ? bytes.substr(0, step.length) : kReplacementCharacter);
    bytes.remove_prefix(step.length);
  }
  return text;
}

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string result;
  while (true) {
    const size_t found = text.find(pattern);
    result.append(text.substr(0, found));
    if (found == std::string_view::npos) return result;
    result.append(content);
    text.remove_prefix(found + pattern.size());
  }
}

size_t leading_space(std::string_view text) noexcept {
  size_t length = 0;
  while (length < text.size() && is_white_space(code_point(text.substr(length))))
    length += utf8_step(text.substr(length)).length;
  return length;
}

size_t trailing_space(std::string_view text) noexcept {
  size_t begin = text.size();
  while (begin > 0) {
    size_t previous = begin - 1;
    while (previous > 0 && is_continuation(byte_at(text, previous))) --previous;
    if (!is_white_space(code_point(text.substr(previous)))) break;
    begin = previous;
  }
  return text.size() - begin;
}

// A character below U+0300 neither changes under NFC nor composes with what precedes it, so text
// may be cut before any of them. Only the stretches that hold others are worked on, from the
// character before them, with which they may compose.
std::string_view nfc(std::string_view text, std::string& storage) {
  const auto reaches_u0300 = [](char c) {
    return static_cast<unsigned char>(c) >= kFirstByteOfU0300;
  };
  const auto below_u0300 = [](char c) {
    return static_cast<unsigned char>(c) < kFirstByteOfU0300 &&
           !is_continuation(static_cast<unsigned char>(c));
  };
  auto high = std::find_if(text.begin(), text.end(), reaches_u0300);
  if (high == text.end()) return text;

  storage.clear();
  storage.reserve(text.size());
  std::vector<utf8proc_int32_t> scratch;
  auto copied = text.begin();
  while (high != text.end()) {
    auto begin = high;
    if (begin != copied) --begin;
    while (begin != copied && is_continuation(static_cast<unsigned char>(*begin))) --begin;
    const auto end = std::find_if(high, text.end(), below_u0300);
    storage.append(copied, begin);
    append_nfc(std::string_view(begin, end), scratch, storage);
    copied = end;
    high = std::find_if(end, text.end(), reaches_u0300);
  }
  storage.append(copied, text.end());
  return storage;
}

}  // namespace laos::hf
