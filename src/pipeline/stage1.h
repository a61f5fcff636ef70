// Stage 1 of adapt_rotation by all ranks of a job: each carries its share of the samples through
// the float model, and the first fits.
#pragma once

#include <filesystem>

#include "cluster/cluster.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "rotation/fit.h"

namespace laos::pipeline {

// Hidden states are kept in `scratch`. Same plan, same bytes, for any number of ranks. At ranks
// other than 0 only `rotation` is there. `times` may be null. Throws Error as
// rotation::fit_rotation, kStopped.
rotation::FitResult fit_together(const Plan& plan, const PlannedFit& planned,
                                 const std::filesystem::path& scratch, Progress& progress,
                                 cluster::Cluster& cluster, TimeSheet* times = nullptr);

// Rank 0's matrix [rows, cols] to all.
void broadcast(Mat<float>& matrix, int64_t rows, int64_t cols, cluster::Cluster& cluster);

}  // namespace laos::pipeline
