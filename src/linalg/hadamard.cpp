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
#include "core/words.h"
#include "linalg/gemm.h"
#include "linalg/kernels/hadamard.h"

namespace laos::linalg {
namespace {

// Orders of the published scheme that a dimension may factor into, largest first.
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

bool is_odd_prime(int64_t n) noexcept {
  if (n < 3 || n % 2 == 0) return false;
  for (int64_t d = 3; d * d <= n; d += 2)
    if (n % d == 0) return false;
  return true;
}

// The field of q elements, q an odd prime p or its square. The number a + b p stands for a + b w,
// where w² is a number that is no square modulo p.
class Field {
 public:
  // Whether there is one that Field makes.
  static bool exists(int64_t q) noexcept { return is_odd_prime(q) || is_odd_prime(root(q)); }

  explicit Field(int64_t q) : p_(is_odd_prime(q) ? q : root(q)), symbols_(legendre(p_)) {
    if (q == p_) return;
    const auto no_square = std::find(symbols_.begin(), symbols_.end(), -1) - symbols_.begin();
    symbols_.assign(static_cast<size_t>(q), -1);
    for (int64_t a = 0; a < p_; ++a)
      for (int64_t b = 0; b < p_; ++b)  // (a + b w)²
        symbols_[static_cast<size_t>((a * a + b * b * no_square) % p_ + 2 * a * b % p_ * p_)] = 1;
    symbols_[0] = 0;
  }

  // Of x - y: 1 for squares, -1 for others, 0 for 0.
  int8_t symbol_of_difference(int64_t x, int64_t y) const noexcept {
    const int64_t a = (x % p_ - y % p_ + p_) % p_, b = (x / p_ - y / p_ + p_) % p_;
    return symbols_[static_cast<size_t>(a + b * p_)];
  }

  // The same of 0 to p - 1, p a prime.
  static std::vector<int8_t> legendre(int64_t p) {
    std::vector<int8_t> symbol(static_cast<size_t>(p), -1);
    for (int64_t x = 1; x < p; ++x) symbol[static_cast<size_t>(x * x % p)] = 1;
    symbol[0] = 0;
    return symbol;
  }

 private:
  // p of q = p², else 0.
  static int64_t root(int64_t q) noexcept {
    const auto p = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(q))));
    return p * p == q ? p : 0;
  }

  int64_t p_;
  std::vector<int8_t> symbols_;
};

// Paley's first construction for q = 3 mod 4: order q + 1.
Kernel paley(int64_t q) {
  const Field field(q);
  const int64_t n = q + 1;
  Kernel a(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int8_t s = 0;
      if (i == 0 && j > 0) s = -1;
      if (i > 0 && j == 0) s = 1;
      if (i > 0 && j > 0) s = field.symbol_of_difference(i - 1, j - 1);
      a[static_cast<size_t>(i * n + j)] = static_cast<int8_t>(s + (i == j ? 1 : 0));
    }
  }
  return a;
}

// Paley's second construction for q = 1 mod 4: order 2 (q + 1). C [q + 1, q + 1] has zeros on its
// diagonal, else ±1, and C Cᵀ = q I. Each entry of C becomes a block of two by two.
Kernel paley_second(int64_t q) {
  constexpr int kOfEntry[2][2] = {{1, 1}, {1, -1}}, kOfDiagonal[2][2] = {{1, -1}, {-1, -1}};
  const Field field(q);
  const int64_t n = 2 * (q + 1);
  Kernel a(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const int64_t x = i / 2, y = j / 2;
      const int c = x == 0 || y == 0 ? 1 : field.symbol_of_difference(x - 1, y - 1);
      a[static_cast<size_t>(i * n + j)] =
          static_cast<int8_t>(x == y ? kOfDiagonal[i % 2][j % 2] : c * kOfEntry[i % 2][j % 2]);
    }
  }
  return a;
}

bool is_of_paley(int64_t order) noexcept { return order % 4 == 0 && Field::exists(order - 1); }
bool is_of_paley_second(int64_t order) noexcept {
  return order % 4 == 0 && (order / 2 - 1) % 4 == 1 && Field::exists(order / 2 - 1);
}
// Whether Paley made a kernel of this order.
bool is_constructed(int64_t order) noexcept {
  return order <= kMaxKernelOrder && (is_of_paley(order) || is_of_paley_second(order));
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
  const std::vector<int8_t> symbol = Field::legendre(kPrime);
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

int64_t odd_factor(int64_t size) noexcept {
  return size >> std::countr_zero(static_cast<uint64_t>(size));
}

// An entry of Hartley's matrix of order n, whose rows have the length sqrt(n).
double hartley(int64_t p, int64_t q, int64_t n) noexcept {
  const double angle =
      2 * std::numbers::pi * static_cast<double>(p * q % n) / static_cast<double>(n);
  return std::cos(angle) + std::sin(angle);
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
  if (is_constructed(order))
    return is_of_paley(order) ? paley(order - 1) : paley_second(order / 2 - 1);
  throw Error(
      ErrorCode::kUnsupported,
      {.what = "no Hadamard kernel of order " + std::to_string(order), .where = "", .fix = ""});
}

int64_t hadamard_order(int64_t size) noexcept {
  if (size < 1) return 0;
  for (const int64_t order : kOrders)
    if (size % order == 0 && std::has_single_bit(static_cast<uint64_t>(size / order))) return order;
  if (std::has_single_bit(static_cast<uint64_t>(size))) return 1;
  for (int64_t order = 4 * odd_factor(size); order <= size && size % order == 0; order *= 2)
    if (is_constructed(order)) return order;
  return 0;
}

int64_t stand_in_order(int64_t size) noexcept {
  if (size < 1 || hadamard_order(size) != 0) return 0;
  const int64_t odd = odd_factor(size);
  return odd <= kMaxStandInOrder ? odd : 0;
}

std::string hadamard_sizes() {
  constexpr int64_t kListed = 256;
  std::vector<std::string> missing;
  for (int64_t order = 4; order <= kListed; order += 4)
    if (hadamard_order(order) == 0) missing.push_back(std::to_string(order));
  return "Hadamard matrices are known of powers of two, of the multiples of four up to " +
         std::to_string(kListed) + " but for " + listed(missing, "and") +
         ", of some above, and of these times powers of two";
}

RandomHadamard::RandomHadamard(int64_t size, int64_t block_size, uint32_t seed)
    : size_(size), block_(block_size == -1 ? size : block_size), order_(hadamard_order(block_)) {
  const int64_t stand_in = stand_in_order(block_);
  if (order_ + stand_in == 0 || block_ > size || size % block_ != 0)
    throw Error(ErrorCode::kUnsupported,
                {.what = order_ + stand_in == 0
                             ? "no Hadamard matrix of size " + std::to_string(block_) + " is known"
                             : "block size " + std::to_string(block_) + " does not divide " +
                                   std::to_string(size),
                 .where = "rotation",
                 .fix = "choose a block_size that divides the dimension; " + hadamard_sizes()});
  std::mt19937 generator(seed);
  signs_.resize(static_cast<size_t>(block_));
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block_)));
  for (float& sign : signs_) sign = generator() % 2 == 1 ? scale : -scale;
  if (order_ != 0) {
    make_kernel();
    return;
  }
  order_ = core_order_ = stand_in;
  stand_in_ = Mat<float>(order_, order_);
  for (int64_t p = 0; p < order_; ++p)
    for (int64_t q = 0; q < order_; ++q)
      stand_in_(p, q) = static_cast<float>(hartley(p, q, order_));
}

void RandomHadamard::make_kernel() {
  std::vector<int8_t> kernel = hadamard_kernel(order_);
  core_order_ = order_;
  if (is_doubled(kernel, order_)) {
    const auto n = static_cast<size_t>(order_);
    for (size_t p = 0; p < n / 2; ++p)
      std::copy_n(kernel.begin() + static_cast<std::ptrdiff_t>(p * n), n / 2,
                  kernel.begin() + static_cast<std::ptrdiff_t>(p * n / 2));
    core_order_ /= 2;
  }
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
    Mat<float> mixed_row(has_stand_in() ? order_ : 0, run);  // [K, run]
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t offset = 0; offset < size_; offset += block_) {
        float* x = rows.row(i) + offset;
        const float* next = offset + block_ < size_ ? x + block_
                            : i + 1 < rows.rows     ? rows.row(i + 1)
                                                    : x;
        kernels::butterflies(x, signs_.data(), block_, run, order_ != core_order_, next);
        if (order_ == 1) continue;
        if (has_stand_in()) {
          linalg::gemm_one_thread(Trans::kNo, Trans::kNo, 1.0f, stand_in_.view(),
                                  MatView<const float>{x, order_, run, run}, 0.0f,
                                  mixed_row.view());
          std::copy_n(mixed_row.data(), block_, x);
          continue;
        }
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
  if (has_stand_in()) {
    const int64_t run = block_ / order_;
    const double scale = 1.0 / std::sqrt(static_cast<double>(block_));
    for (int64_t i = 0; i < size_; ++i)
      for (int64_t j = i / block_ * block_; j < (i / block_ + 1) * block_; ++j) {
        const int64_t row = i % block_, col = j % block_;
        const bool is_odd = std::popcount(static_cast<uint64_t>(row % run & col % run)) % 2 == 1;
        const double entry = hartley(col / run, row / run, order_) * (is_odd ? -scale : scale);
        matrix(i, j) =
            static_cast<float>(std::signbit(signs_[static_cast<size_t>(row)]) ? -entry : entry);
      }
    return matrix;
  }
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
