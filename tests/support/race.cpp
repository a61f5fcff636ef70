// For ThreadSanitizer: tasks of parallel_for that share nothing, or, with an argument, one
// variable. A sanitizer that reports nothing of the second sees nothing; one that reports the first
// cannot see how OpenMP's threads wait for each other.
#include <cstdint>
#include <iostream>
#include <vector>

#include "core/threads.h"

int main(int argc, char**) {
  constexpr int64_t kTasks = 1000;
  constexpr int kRounds = 20;
  const bool race = argc > 1;
  laos::set_num_threads(4);
  std::vector<int64_t> own(kTasks);
  int64_t shared = 0;
  for (int round = 0; round < kRounds; ++round) {
    laos::parallel_for(kTasks, [&](int64_t i) {
      ++own[static_cast<size_t>(i)];  // by another thread each round
      if (race) ++shared;
    });
    for (const int64_t count : own) shared += count;
  }
  std::cout << shared << '\n';
  return 0;
}
