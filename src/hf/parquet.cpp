#include "hf/parquet.h"

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <parquet/arrow/reader.h>

#include <exception>
#include <memory>
#include <string>

#include "core/error.h"

// Arrow 24 and later have other forms of these functions, which earlier versions have not.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace laos::hf {
namespace {

using Json = nlohmann::json;

template <class List>
Json list_value(const arrow::Array& array, int64_t i);

Json value_of(const arrow::Array& array, int64_t i) {
  if (array.IsNull(i)) return nullptr;
  switch (array.type_id()) {
    case arrow::Type::STRING:
      return std::string(static_cast<const arrow::StringArray&>(array).GetView(i));
    case arrow::Type::LARGE_STRING:
      return std::string(static_cast<const arrow::LargeStringArray&>(array).GetView(i));
    case arrow::Type::INT16:
      return static_cast<const arrow::Int16Array&>(array).Value(i);
    case arrow::Type::INT32:
      return static_cast<const arrow::Int32Array&>(array).Value(i);
    case arrow::Type::UINT32:
      return static_cast<const arrow::UInt32Array&>(array).Value(i);
    case arrow::Type::INT64:
      return static_cast<const arrow::Int64Array&>(array).Value(i);
    case arrow::Type::UINT64:
      return static_cast<const arrow::UInt64Array&>(array).Value(i);
    case arrow::Type::LIST:
      return list_value<arrow::ListArray>(array, i);
    case arrow::Type::LARGE_LIST:
      return list_value<arrow::LargeListArray>(array, i);
    case arrow::Type::STRUCT: {
      const auto& fields = static_cast<const arrow::StructArray&>(array);
      Json object = Json::object();
      for (int f = 0; f < fields.num_fields(); ++f)
        object[fields.struct_type()->field(f)->name()] = value_of(*fields.field(f), i);
      return object;
    }
    case arrow::Type::DICTIONARY: {
      const auto& encoded = static_cast<const arrow::DictionaryArray&>(array);
      return value_of(*encoded.dictionary(), encoded.GetValueIndex(i));
    }
    default:
      return nullptr;
  }
}

template <class List>
Json list_value(const arrow::Array& array, int64_t i) {
  const auto& list = static_cast<const List&>(array);
  Json values = Json::array();
  for (int64_t j = list.value_offset(i); j < list.value_offset(i + 1); ++j)
    values.push_back(value_of(*list.values(), j));
  return values;
}

void check(const arrow::Status& status, const std::string& file) {
  if (!status.ok())
    throw Error(ErrorCode::kFormat, {.what = "cannot read it as Parquet: " + status.message(),
                                     .where = file,
                                     .fix = "get the file from its source again"});
}

void read_rows(const std::string& file, const std::function<void(const Json&)>& take) {
  auto input = arrow::io::ReadableFile::Open(file);
  check(input.status(), file);
  parquet::arrow::FileReaderBuilder builder;
  check(builder.Open(*input), file);
  std::unique_ptr<parquet::arrow::FileReader> reader;
  check(builder.Build(&reader), file);
  // Row groups bound the memory.
  for (int group = 0; group < reader->num_row_groups(); ++group) {
    std::shared_ptr<arrow::Table> table;
    check(reader->ReadRowGroup(group, &table), file);
    arrow::TableBatchReader batches(*table);
    for (std::shared_ptr<arrow::RecordBatch> batch;;) {
      check(batches.ReadNext(&batch), file);
      if (!batch) break;
      for (int64_t i = 0; i < batch->num_rows(); ++i) {
        Json row = Json::object();
        for (int c = 0; c < batch->num_columns(); ++c)
          row[batch->column_name(c)] = value_of(*batch->column(c), i);
        take(row);
      }
    }
  }
}

}  // namespace

void for_each_parquet_row(const std::filesystem::path& file,
                          const std::function<void(const Json& row)>& take) {
  try {
    read_rows(file.string(), take);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {  // what the library throws of damaged files
    throw Error(ErrorCode::kFormat,
                {.what = std::string("cannot read it as Parquet: ") + error.what(),
                 .where = file.string(),
                 .fix = "get the file from its source again"});
  }
}

}  // namespace laos::hf
