#include "hf/unicode.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace laos::hf {
namespace {

std::string nfc_of(std::string_view text) {
  std::string storage;
  return std::string(nfc(text, storage));
}

TEST(Utf8, AcceptsTheLimitsOfEveryLength) {
  for (const std::string_view text :
       {std::string_view("\0", 1), std::string_view("\x7F"), std::string_view("\xC2\x80"),
        std::string_view("\xDF\xBF"), std::string_view("\xE0\xA0\x80"),
        std::string_view("\xED\x9F\xBF"), std::string_view("\xEE\x80\x80"),
        std::string_view("\xEF\xBF\xBF"), std::string_view("\xF0\x90\x80\x80"),
        std::string_view("\xF4\x8F\xBF\xBF")}) {
    EXPECT_TRUE(utf8_step(text).valid) << testing::PrintToString(text);
    EXPECT_EQ(utf8_step(text).length, text.size());
    EXPECT_EQ(first_invalid_utf8(text), std::string_view::npos);
  }
}

TEST(Utf8, FindsTheFirstInvalidByteBehindAnyAmountOfAscii) {
  for (const char* invalid :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3", "\xE4\xBD"})
    for (size_t length = 0; length < 20; ++length)
      EXPECT_EQ(first_invalid_utf8(std::string(length, 'a') + invalid), length);
}

// Table 3-8 of the Unicode standard and its neighbours.
TEST(Utf8, ReplacesEveryMaximalIllFormedPieceOnce) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(utf8_lossy("a\xF1\x80\x80\xE1\x80\xC2z"), "a" + r + r + r + "z");
  EXPECT_EQ(utf8_lossy("\xE0\x80\x80"), r + r + r);
  EXPECT_EQ(utf8_lossy("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(utf8_lossy("\xF0\x90\x80"), r);
  EXPECT_EQ(utf8_lossy("\xF4\x91\x92\x93\xFF\x41"), r + r + r + r + r + "A");
  EXPECT_EQ(utf8_lossy("\xC3\xA9"), "\xC3\xA9");
}

TEST(WhiteSpace, IsMeasuredAtBothEnds) {
  EXPECT_EQ(leading_space(" \t\xE3\x80\x80x "), 5U);
  EXPECT_EQ(trailing_space(" x\xC2\x85\n"), 3U);
  EXPECT_EQ(leading_space("\xE1\xA0\x8E"), 0U);  // U+180E is no space
  EXPECT_EQ(trailing_space("  "), 2U);
  EXPECT_EQ(trailing_space(""), 0U);
}

TEST(Nfc, LeavesTextBelowU0300InPlace) {
  const std::string text = "caf\u00E9 \u00A0 na\u00EFve \u02FF";
  std::string storage;
  EXPECT_EQ(nfc(text, storage).data(), text.data());
}

TEST(Nfc, ComposesAndReordersMarks) {
  EXPECT_EQ(nfc_of("e\u0301"), "\u00E9");
  EXPECT_EQ(nfc_of("x\u00E9\u0323y"), "x\u1EB9\u0301y");
  EXPECT_EQ(nfc_of("q\u0301\u0323"), "q\u0323\u0301");
  EXPECT_EQ(nfc_of("\u212B\u2126"), "\u00C5\u03A9");
  EXPECT_EQ(nfc_of("\u0344"), "\u0308\u0301");
  EXPECT_EQ(nfc_of("\u1100\u1161\u11A8"), "\uAC01");
  EXPECT_EQ(nfc_of("\uFB1D"), "\u05D9\u05B4");  // excluded from composition
  EXPECT_EQ(nfc_of("a\u0301 \u4F60 e\u0301"), "\u00E1 \u4F60 \u00E9");
}

TEST(Nfc, TreatsWhatIsYoungerThanUnicode9AsTheReferenceDoes) {
  EXPECT_EQ(nfc_of("q\U0001E4EC\u0316"), "q\U0001E4EC\u0316");
  EXPECT_EQ(nfc_of("\U00011935\U00011930"), "\U00011935\U00011930");
  EXPECT_EQ(nfc_of("a\u0898\u0301"), "a\u0898\u0301");
}

// utf8proc's own ordering takes minutes for this.
TEST(Nfc, SortsALongRunOfMarksInTime) {
  std::string text = "q";
  std::string expected = "q";
  constexpr int kCount = 200'000;
  for (int i = 0; i < kCount; ++i) text += "\u0301\u0323";
  for (int i = 0; i < kCount; ++i) expected += "\u0323";
  for (int i = 0; i < kCount; ++i) expected += "\u0301";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(nfc_of(text), expected);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

}  // namespace
}  // namespace laos::hf
