// What ranks must have in common before they share a run.
#pragma once

#include <string>
#include <vector>

#include "cluster/cluster.h"
#include "pipeline/plan.h"

namespace laos::pipeline {

// Makes all ranks compute alike: where their instruction sets differ, all use the best that every
// one has. To be called first of all, before anything is computed. Returns, at rank 0, what the
// user should know: that, and ranks which share processors or leave most of them idle. Throws
// Error(kUnsupported) when the ranks' products still differ in a bit, naming them.
std::vector<std::string> agree_on_arithmetic(cluster::Cluster& cluster);

// Throws Error(kUsage) at rank 0 when a rank has another program, recipe, text or model than it,
// naming both. Every rank calls it with its plan.
void agree_on_plan(const Plan& plan, cluster::Cluster& cluster);

}  // namespace laos::pipeline
