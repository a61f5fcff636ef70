#include "linalg/hadamard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <complex>
#include <numbers>
#include <random>
#include <string>
#include <string_view>

#include "core/threads.h"
#include "linalg/kernels/hadamard.h"

namespace laos::linalg {
namespace {

// Orders that a dimension may factor into, largest first.
constexpr std::array<int64_t, 15> kOrders = {200, 172, 160, 156, 140, 136, 108, 76,
                                             60,  52,  40,  36,  28,  20,  12};

// First rows of the four symmetric circulants of Williamson's construction.
struct Williamson {
  int64_t order;
  std::array<std::string_view, 4> rows;
};
constexpr std::array kWilliamson = {
    Williamson{20, {"+----", "+----", "++--+", "+-++-"}},
    Williamson{28, {"+------", "++----+", "+-+--+-", "+--++--"}},
    Williamson{36, {"++------+", "+-+----+-", "+--+--+--", "+---++---"}},
    Williamson{52, {"+-+--++++--+-", "+---++++++---", "++-+--++--+-+", "+----+--+----"}},
    Williamson{60, {"++-++-+--+-++-+", "++-++++--++++-+", "++-++------++-+", "+-+---++++---+-"}},
    Williamson{
        68, {"+-++-+++--+++-++-", "+--+-++++++++-+--", "++-+---+--+---+-+", "+---+++----+++---"}},
    Williamson{76,
               {"++--+-++++++++-+--+", "+-+---++++++++---+-", "++-++--+-++-+--++-+",
                "++--+++-+--+-+++--+"}},
    Williamson{108,
               {"+---+++++-+-++++-+-+++++---", "+---+++++-+-++++-+-+++++---",
                "+--+--+-+++--++--+++-+--+--", "+++-++-+---++--++---+-++-++"}},
    Williamson{
        156,
        {"+++--+-+-----+--++----++--+-----+-+--++", "++++---+--++----+-+--+-+----++--+---+++",
         "+++--++-+---+-+--+----+--+-+---+-++--++", "+---++-+-+-----+++-++-+++-----+-+-++---"}},
    Williamson{172,
               {"+---++--++++-+-+++-++--++-+++-+-++++--++---",
                "++-++++++----+-+--++-++-++--+-+----++++++-+",
                "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
                "++---++++-+--+--++--------++--+--+-++++---+"}},
};

using Kernel = std::vector<int8_t>;

// Legendre symbols of 0 to q - 1, q a prime: 1 for squares, -1 for others, 0 for 0.
std::vector<int8_t> legendre(int64_t q) {
  std::vector<int8_t> symbol(static_cast<size_t>(q), -1);
  for (int64_t x = 1; x < q; ++x) symbol[static_cast<size_t>(x * x % q)] = 1;
  symbol[0] = 0;
  return symbol;
}

// Paley's first construction for a prime q = 3 mod 4: order q + 1.
Kernel paley(int64_t q) {
  const std::vector<int8_t> symbol = legendre(q);
  const int64_t n = q + 1;
  Kernel a(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int8_t s = 0;
      if (i == 0 && j > 0) s = -1;
      if (i > 0 && j == 0) s = 1;
      if (i > 0 && j > 0) s = symbol[static_cast<size_t>((i - j + q) % q)];
      a[static_cast<size_t>(i * n + j)] = static_cast<int8_t>(s + (i == j ? 1 : 0));
    }
  }
  return a;
}

// [[x, x], [x, -x]]
Kernel doubled(const Kernel& x) {
  const auto n = static_cast<size_t>(std::llround(std::sqrt(static_cast<double>(x.size()))));
  Kernel a(4 * n * n);
  for (size_t i = 0; i < 2 * n; ++i)
    for (size_t j = 0; j < 2 * n; ++j)
      a[i * 2 * n + j] = static_cast<int8_t>((i >= n && j >= n ? -1 : 1) * x[i % n * n + j % n]);
  return a;
}

// [[A, B, C, D], [-B, A, -D, C], [-C, D, A, -B], [-D, -C, B, A]] of circulants.
Kernel williamson(const Williamson& entry) {
  constexpr int kBlock[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
  constexpr int kSign[4][4] = {{1, 1, 1, 1}, {-1, 1, -1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}};
  const int64_t n = entry.order / 4;
  Kernel a(static_cast<size_t>(entry.order * entry.order));
  for (int64_t i = 0; i < entry.order; ++i) {
    for (int64_t j = 0; j < entry.order; ++j) {
      const int64_t p = i / n, q = j / n;
      const char c = entry.rows[static_cast<size_t>(kBlock[p][q])]
                               [static_cast<size_t>((j % n - i % n + n) % n)];
      a[static_cast<size_t>(i * entry.order + j)] =
          static_cast<int8_t>(kSign[p][q] * (c == '+' ? 1 : -1));
    }
  }
  return a;
}

// paley(79) = I + S for kernels::mix_paley80. S[i][j] is the Legendre symbol of the determinant of
// v_i and v_j, where v_0 = (-1, 0) and v_i = (i - 1, 1) stand for the 80 points of the projective
// line over the field of 79. Take (x, y) as x + y sqrt(-1) in the field of 79^2, whose units are
// the powers of w = 1 + 6 sqrt(-1). For k < 80 these are the same points in another order, each
// multiplied by a number whose symbol is its sign. With N the norm of w, which is not a square,
//   det(w^k, w^l) = N^k det(1, w^(l - k)),  so that  S[k][l] = (-1)^k s(l - k)  but for signs,
// and w^80 = N makes s(m + 80) = -s(m): a convolution that changes sign where it goes around
// (Delsarte, Goethals, Seidel 1971), with h(m) = s(-m). It is a product of polynomials modulo
// x^80 = -1. With x = u v, u^16 = -1 and v^5 = 1, x^k is (-1)^(k / 16) u^(k mod 16) v^(k mod 5):
// two dimensions, of which the second goes through a Fourier transform as it is, and the first,
// with i for u^8 and u = exp(pi i / 16) t, t^8 = 1, as 8 complex points.
kernels::Paley80 make_paley80() {
  constexpr int64_t kPrime = 79;
  const auto mod = [](int64_t v) { return (v % kPrime + kPrime) % kPrime; };
  const std::vector<int8_t> symbol = legendre(kPrime);
  const auto symbol_of = [&](int64_t v) { return symbol[static_cast<size_t>(mod(v))]; };
  std::array<int64_t, 80> point{};
  std::array<double, 80> sign{}, h{};
  int64_t x = 1, y = 0;  // w^k
  for (size_t k = 0; k < 80; ++k) {
    if (y != 0)
      while (mod(point[k] * y) != x) ++point[k];  // x / y
    point[k] = y == 0 ? 0 : 1 + point[k];
    const int along_u = k / 16 % 2 == 0 ? 1 : -1;
    sign[k] = along_u * symbol_of(y == 0 ? -x : y);
    h[(80 - k) % 80] = (80 - k) % 80 / 16 % 2 == 0 ? -symbol_of(y) : symbol_of(y);
    const int64_t next = mod(x - 6 * y);
    y = mod(y + 6 * x);
    x = next;
  }

  using Complex = std::complex<double>;
  const auto turn = [](size_t j, size_t n) {  // exp(pi i j / n)
    return std::polar(1.0, std::numbers::pi * static_cast<double>(j) / static_cast<double>(n));
  };
  kernels::Paley80 result;
  std::array<std::array<Complex, 5>, 8> packed;  // h as points
  for (size_t b = 0; b < 8; ++b) {
    result.twists[b] = std::complex<float>(turn(b, 16));
    result.untwists[b] = std::conj(result.twists[b]) * (b % 2 == 0 ? 1.0f : -1.0f);
    for (size_t a = 0; a < 5; ++a) {
      // b or b + 8 modulo 16, and a modulo 5
      const size_t low = (65 * b + 16 * a) % 80, high = (65 * (b + 8) + 16 * a) % 80;
      result.pairs[b][a] = {.low = point[low],
                            .high = point[high],
                            .sign_low = static_cast<float>(sign[low]),
                            .sign_high = static_cast<float>(sign[high])};
      packed[b][a] = Complex(h[low], h[high]) * turn(b, 16);
    }
  }
  for (size_t g = 0; g < 5; ++g) {
    for (size_t f = 0; f < 8; ++f) {
      Complex sum = 0;
      for (size_t b = 0; b < 8; ++b)
        for (size_t a = 0; a < 5; ++a)
          sum += packed[b][a] * std::conj(turn(5 * f * b + 8 * a * g, 20));
      result.spectrum[8 * g + f] = std::complex<float>(sum / 40.0);
    }
  }
  return result;
}

// Made when a transform first needs it.
const kernels::Paley80& paley80() {
  static const kernels::Paley80 made = make_paley80();
  return made;
}

// Whether a kernel [n, n] is [[x, x], [x, -x]] of one that can be mixed by fours.
bool is_doubled(const Kernel& a, int64_t n) {
  const int64_t h = n / 2;
  if (h == 0 || h % 4 != 0) return false;
  const auto at = [&](int64_t i, int64_t j) { return a[static_cast<size_t>(i * n + j)]; };
  for (int64_t i = 0; i < h; ++i)
    for (int64_t j = 0; j < h; ++j)
      if (at(i, j + h) != at(i, j) || at(i + h, j) != at(i, j) || at(i + h, j + h) != -at(i, j))
        return false;
  return true;
}

}  // namespace

std::vector<int8_t> hadamard_kernel(int64_t order) {
  switch (order) {
    case 1:
      return {1};
    case 12:
      return paley(11);
    case 40:
      return doubled(hadamard_kernel(20));
    case 80:
      return paley(79);
    case 136:
      return doubled(hadamard_kernel(68));
    case 140:
      return paley(139);
    case 160:
      return doubled(hadamard_kernel(80));
    case 200:
      return paley(199);
    default:
      break;
  }
  for (const Williamson& entry : kWilliamson)
    if (entry.order == order) return williamson(entry);
  throw Error(
      ErrorCode::kUnsupported,
      {.what = "no Hadamard kernel of order " + std::to_string(order), .where = "", .fix = ""});
}

int64_t hadamard_order(int64_t size) noexcept {
  if (size < 1) return 0;
  for (const int64_t order : kOrders)
    if (size % order == 0 && std::has_single_bit(static_cast<uint64_t>(size / order))) return order;
  return std::has_single_bit(static_cast<uint64_t>(size)) ? 1 : 0;
}

std::string hadamard_sizes() {
  std::string text = "sizes are K * 2^k with K one of 1";
  for (auto order = kOrders.rbegin(); order != kOrders.rend(); ++order)
    text += ", " + std::to_string(*order);
  return text;
}

RandomHadamard::RandomHadamard(int64_t size, int64_t block_size, uint32_t seed)
    : size_(size), block_(block_size == -1 ? size : block_size), order_(hadamard_order(block_)) {
  if (order_ == 0 || block_ > size || size % block_ != 0)
    throw Error(
        ErrorCode::kUnsupported,
        {.what = order_ == 0 ? "no Hadamard matrix of size " + std::to_string(block_) + " is known"
                             : "block size " + std::to_string(block_) + " does not divide " +
                                   std::to_string(size),
         .where = "rotation",
         .fix = hadamard_sizes() + "; choose a block_size among them that divides the dimension"});
  std::vector<int8_t> kernel = hadamard_kernel(order_);
  core_order_ = order_;
  if (is_doubled(kernel, order_)) {
    const auto n = static_cast<size_t>(order_);
    for (size_t p = 0; p < n / 2; ++p)
      std::copy_n(kernel.begin() + static_cast<std::ptrdiff_t>(p * n), n / 2,
                  kernel.begin() + static_cast<std::ptrdiff_t>(p * n / 2));
    core_order_ /= 2;
  }
  std::mt19937 generator(seed);
  signs_.resize(static_cast<size_t>(block_));
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block_)));
  for (float& sign : signs_) sign = generator() % 2 == 1 ? scale : -scale;

  std::vector<bool> is_flipped(static_cast<size_t>(core_order_));
  if (has_paley80()) {  // its inputs carry signs
    for (const auto& five : paley80().pairs) {
      for (const kernels::Paley80::Pair& pair : five) {
        is_flipped[static_cast<size_t>(pair.low)] = pair.sign_low < 0;
        is_flipped[static_cast<size_t>(pair.high)] = pair.sign_high < 0;
      }
    }
    const int64_t run = block_ / order_;
    for (int64_t i = 0; i < block_; ++i)
      if (is_flipped[static_cast<size_t>(i / run % core_order_)])
        signs_[static_cast<size_t>(i)] *= -1;
  }
  codes_.resize(static_cast<size_t>(core_order_ * core_order_ / 4));
  for (int64_t i = 0; i < core_order_ * (core_order_ / 4) * 4; ++i)
    if ((kernel[static_cast<size_t>(i)] < 0) != is_flipped[static_cast<size_t>(i % core_order_)])
      codes_[static_cast<size_t>(i / 4)] |= 1 << i % 4;
}

void RandomHadamard::apply_right(MatView<float> rows) const {
  LAOS_ASSERT(rows.cols == size_);
  const int64_t run = block_ / order_, mixed = core_order_ * run;
  parallel_for_ranges(rows.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t offset = 0; offset < size_; offset += block_) {
        float* x = rows.row(i) + offset;
        const float* next = offset + block_ < size_ ? x + block_
                            : i + 1 < rows.rows     ? rows.row(i + 1)
                                                    : x;
        kernels::butterflies(x, signs_.data(), block_, run, order_ != core_order_, next);
        if (order_ == 1) continue;
        for (int64_t start = 0; start < block_; start += mixed) {
          if (has_paley80())
            kernels::mix_paley80(x + start, codes_.data(), paley80(), run);
          else
            kernels::mix(x + start, codes_.data(), core_order_, run);
        }
      }
    }
  });
}

Mat<float> RandomHadamard::dense() const {
  Mat<float> matrix(size_, size_);
  matrix.fill_zero();
  for (int64_t i = 0; i < size_; ++i) matrix(i, i) = 1.0f;
  apply_right(matrix.view());
  // The transform rounds: only its signs are wanted.
  const float scale = std::abs(signs_.front());
  for (int64_t i = 0; i < size_; ++i)
    for (int64_t j = i / block_ * block_; j < (i / block_ + 1) * block_; ++j)
      matrix(i, j) = std::copysign(scale, matrix(i, j));
  return matrix;
}

}  // namespace laos::linalg
