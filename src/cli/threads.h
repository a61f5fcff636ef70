// How many threads work, and how they wait for each other.
#pragma once

namespace laos::cli {

// Starts the program again, once, where threads that wait would spin for long: GNU's OpenMP reads how
// long from the environment only, before main. Does nothing where OMP_WAIT_POLICY or GOMP_SPINCOUNT
// say it. Call before anything else.
void bound_spinning(char** argv);

// Without OMP_NUM_THREADS: no more threads than the processors that this process may use.
void heed_quota();

}  // namespace laos::cli
