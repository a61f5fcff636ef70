#include "core/error.h"

#include <gtest/gtest.h>

#include "core/collapse.h"

namespace laos {
namespace {

TEST(ErrorMessage, SaysWhatWhereAndHowToFixIt) {
  const Error error(ErrorCode::kShape, {.what = "group_size 96 does not divide in_features 11008",
                                        .where = "w4a8.yaml:17",
                                        .fix = "use a group_size that divides it"});
  EXPECT_STREQ(error.what(),
               "group_size 96 does not divide in_features 11008\n"
               "  at:  w4a8.yaml:17\n"
               "  fix: use a group_size that divides it");
  EXPECT_EQ(error.code(), ErrorCode::kShape);
}

TEST(ErrorMessage, LeavesOutWhatIsNotKnown) {
  EXPECT_STREQ(Error(ErrorCode::kIo, {.what = "a", .where = "", .fix = ""}).what(), "a");
  EXPECT_STREQ(Error(ErrorCode::kIo, {.what = "a", .where = "", .fix = "b"}).what(), "a\n  fix: b");
}

TEST(ErrorMessage, CountsAndListsSeveralProblemsInTheirOrder) {
  Problems problems;
  problems.add({.what = "first", .where = "x:1", .fix = "mend it"});
  problems.add({.what = "second", .where = "", .fix = ""});
  EXPECT_FALSE(problems.empty());
  try {
    problems.throw_if_any(ErrorCode::kRecipe);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kRecipe);
    EXPECT_EQ(error.problems().size(), 2u);
    EXPECT_STREQ(error.what(), "2 problems\n- first\n  at:  x:1\n  fix: mend it\n- second");
  }
}

TEST(ErrorMessage, EscapesWhatWouldSteerATerminal) {
  const Error error(ErrorCode::kFormat,
                    {.what = "tensor \"a\x1b[31m\nb\"", .where = "x\x7f", .fix = ""});
  EXPECT_STREQ(error.what(), "tensor \"a\\x1b[31m\\x0ab\"\n  at:  x\\x7f");
  EXPECT_EQ(error.problems().front().where, "x\\x7f");
}

TEST(ErrorMessage, NoProblemsThrowNothing) {
  const Problems problems;
  EXPECT_TRUE(problems.empty());
  EXPECT_NO_THROW(problems.throw_if_any(ErrorCode::kRecipe));
}

TEST(LaosAssert, IsAnInternalErrorThatShowsItsExpression) {
  EXPECT_NO_THROW(LAOS_ASSERT(1 + 1 == 2));
  try {
    LAOS_ASSERT(1 + 1 == 3);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_EQ(error.problems().front().what, "assertion failed: 1 + 1 == 3");
    EXPECT_NE(error.problems().front().where.find("error_test.cpp:"), std::string::npos);
  }
}

TEST(ErrorCode, EachHasAWord) {
  EXPECT_STREQ(to_string(ErrorCode::kUsage), "usage");
  EXPECT_STREQ(to_string(ErrorCode::kUnsupported), "unsupported");
  EXPECT_STREQ(to_string(ErrorCode::kInternal), "internal");
}

TEST(CollapsedProblems, KeepTheFirstOfManyOfAKindAndCountTheOthers) {
  CollapsedProblems problems;
  problems.add({"other", "z", ""});
  for (const char* where : {"a", "b", "c"}) problems.add({"missing", where, "look"});
  EXPECT_EQ(problems.list().size(), 4u);
  problems.add({"missing", "d", "look"});
  problems.add({"missing", "e", "look elsewhere"});
  const std::vector<Problem> collapsed = problems.list();
  ASSERT_EQ(collapsed.size(), 3u);
  EXPECT_EQ(collapsed[1].where, "a, and 3 more like it");
  EXPECT_EQ(collapsed[2].where, "e");
}

TEST(CollapsedProblems, OfMoreThanAHundredKindsAreCounted) {
  CollapsedProblems problems;
  for (int i = 0; i < 1000; ++i) problems.add({std::to_string(i), "", ""});
  EXPECT_EQ(problems.count(), 1000);
  EXPECT_EQ(problems.list().size(), 101u);
  EXPECT_EQ(problems.list().back().what, "and 900 problems more");
}

TEST(NearestName, FindsInsertedMissingChangedAndSwappedLetters) {
  const std::vector<std::string> names = {"group_size", "symmetric", "include", "exclude", "iters"};
  EXPECT_EQ(nearest_name("group_size", names), "group_size");
  EXPECT_EQ(nearest_name("groupsize", names), "group_size");
  EXPECT_EQ(nearest_name("symetric", names), "symmetric");
  EXPECT_EQ(nearest_name("exclued", names), "exclude");
  EXPECT_EQ(nearest_name("iterss", names), "iters");
  EXPECT_EQ(nearest_name("inclube", names), "include");
}

TEST(NearestName, TakesTheNearestAndOfEqualsTheFirst) {
  EXPECT_EQ(nearest_name("abcdef", {"abcxyf", "abcdxf"}), "abcdxf");
  EXPECT_EQ(nearest_name("abcdef", {"abcdex", "xbcdef"}), "abcdex");
}

TEST(NearestName, AllowsAThirdOfTheLettersAndOneMore) {
  EXPECT_EQ(nearest_name("abcdef", {"abcxyz"}), "abcxyz");
  EXPECT_EQ(nearest_name("abcdef", {"abwxyz"}), "");
  EXPECT_EQ(nearest_name("bit", {"bits"}), "bits");
  EXPECT_EQ(nearest_name("tpye", {"type"}), "type");
}

TEST(NearestName, IsEmptyWhenNoneIsNear) {
  EXPECT_EQ(nearest_name("group_size", {"lr", "scheme", "alpha"}), "");
  EXPECT_EQ(nearest_name("group_size", {}), "");
}

}  // namespace
}  // namespace laos
