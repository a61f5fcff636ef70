// Rows of Parquet files. Apache Arrow appears in parquet.cpp only; no_parquet.cpp stands for it in
// a build without it.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

namespace laos::hf {

// Calls `take` with each row as an object of its columns: strings, whole numbers, lists and
// structs; null for a value of any other type. Throws Error(kFormat) when the file is damaged, and
// Error(kUnsupported) in a build without Apache Arrow, saying how to convert the file.
void for_each_parquet_row(const std::filesystem::path& file,
                          const std::function<void(const nlohmann::json& row)>& take);

}  // namespace laos::hf
