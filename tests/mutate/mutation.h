// Damages text or bytes at random: what a bad disk, a bad tool or a bad person makes of a file.
#pragma once

#include <random>
#include <string>
#include <vector>

namespace laos::mutate {

using Random = std::mt19937_64;

// From 0 to `bound` - 1.
inline size_t below(Random& random, size_t bound) { return static_cast<size_t>(random() % bound); }

// `bytes` with one to four random changes: bits flipped, pieces removed, repeated, moved, inserted
// or cut off; numbers replaced by extreme ones; words of the file, or of `words`, put in place of
// others. `focus` 0 changes all of the file, else mostly its first `focus` bytes.
std::string damaged(std::string bytes, const std::vector<std::string>& words, size_t focus,
                    Random& random);

}  // namespace laos::mutate
