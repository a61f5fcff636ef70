#include "core/error.h"
#include "hf/parquet.h"

namespace laos::hf {

void for_each_parquet_row(const std::filesystem::path& file,
                          const std::function<void(const nlohmann::json& row)>&) {
  const std::string from = file.string(),
                    to = std::filesystem::path(file).replace_extension(".jsonl").string();
  throw Error(ErrorCode::kUnsupported,
              {.what = "this laos was built without Apache Arrow, which reads Parquet",
               .where = from,
               .fix = "convert it: duckdb -c \"COPY (FROM '" + from + "') TO '" + to +
                      "' (FORMAT json)\", or python3 -c \"import pandas; "
                      "pandas.read_parquet('" +
                      from + "').to_json('" + to + "', orient='records', lines=True)\""});
}

}  // namespace laos::hf
