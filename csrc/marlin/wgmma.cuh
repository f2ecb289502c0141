// The GEMM of 9.0a for more rows than decoding has: C = A * dequantised(B) by wgmma, B's 4 or 8
// bits widened on the way from shared memory into the MMA's register operand.
//
// The operands are swapped: wgmma takes its 64-row operand from registers, so the weights' columns
// are its rows and the tokens its columns. A block is one producer warp, which keeps a ring of
// stages full by tensor copies (activations, packed weights, scales, zero points), and two or four
// consumer warpgroups that share the tile's 256 weight columns. Every weight is widened once per
// block, for up to 128 tokens; while the tensor cores work on one turn of K, the next is widened
// into a second set of registers.
//
// Where tiles are fewer than multiprocessors their K is cut into parts. A few parts are added by
// their blocks, a cluster, through distributed shared memory; many, of which a device would not
// hold enough clusters, as in the other kernel (schedule.h). Both add in the order of K: results do
// not depend on timing, and nothing waits for a block that might not be running.
//
// Scales per channel are applied to the float32 sums. Scales per group multiply the widened weight
// in the activations' type: one more rounding per weight for integer and e4m3 weights, none where
// the scale is a power of two or the weight e2m1.
#pragma once

#include <cstdint>

#include "common/async_copy.cuh"
#include "common/guard.cuh"
#include "common/numeric.cuh"
#include "common/pipeline.cuh"
#include "common/shared_memory.cuh"
#include "marlin/wgmma_dequant.cuh"
#include "marlin/wgmma_ptx.cuh"
#include "marlin/wgmma_tile.h"

namespace kernelpkg::marlin {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kTargetHasWgmma = true;
#else
constexpr bool kTargetHasWgmma = false;
#endif

// Where things are in shared memory, as 32-bit addresses.
template <class T>
struct WgmmaShared {
  uint32_t base;

  __device__ __forceinline__ uint32_t activations(int stage) const {
    return base + stage * T::kActBytes;
  }
  __device__ __forceinline__ uint32_t weights(int stage) const {
    return base + T::kStages * T::kActBytes + stage * T::kWeightBytes;
  }
  __device__ __forceinline__ uint32_t scales(int stage) const {
    return base + T::kStages * (T::kActBytes + T::kWeightBytes) + stage * T::kScaleBytes;
  }
  __device__ __forceinline__ uint32_t zeros(int stage) const {
    return base + T::kStages * (T::kActBytes + T::kWeightBytes + T::kScaleBytes) +
           stage * T::kZeroBytes;
  }
  __device__ __forceinline__ uint32_t full(int stage) const {
    return base + T::kStages * T::kStageBytes + 16 * stage;
  }
  __device__ __forceinline__ uint32_t empty(int stage) const { return full(stage) + 8; }
};

// A place in the ring: stages are used in turn, and the parity flips with every round.
template <class T>
struct WgmmaRing {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == T::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// What one block computes: a stretch of K (in stages) of a tile, or all of it.
struct WgmmaWork {
  int row;  // of C, the tile's first
  int col;
  int first_stage;
  int last_stage;  // exclusive

  __device__ __forceinline__ WgmmaWork(const Schedule& schedule, int item, int tokens, int cols) {
    const int tile = item / schedule.parts, part = item - tile * schedule.parts;
    int m_tile, n_tile;
    schedule.place(tile, m_tile, n_tile);
    row = m_tile * tokens;
    col = n_tile * cols;
    first_stage = schedule.begin(part);
    last_stage = schedule.begin(part + 1);
  }
};

// The first row of scales of a stage.
template <class T>
__device__ __forceinline__ int group_of_stage(const WgmmaParams& params, int stage) {
  return T::kNvfp4Scales ? stage * T::kUnits : stage * T::kStageK >> params.group_shift;
}

// One warp fills the ring with a tile's stages. All its lanes go through the motions, so that the
// copies' operands stay uniform; one lane issues.
template <class T>
__device__ __forceinline__ void produce(const WgmmaMaps& maps, const WgmmaParams& params,
                                        const WgmmaWork& work, const WgmmaShared<T>& shared,
                                        WgmmaRing<T>& ring) {
  const bool has_scales = T::kNvfp4Scales || params.grouped;
  const bool has_zeros = T::kHasZeros && params.zeros;
  // Rows of scales and zero points that a stage spans: one at least, again and again where groups
  // are larger.
  const int group_rows =
      T::kStageK >> params.group_shift > 1 ? T::kStageK >> params.group_shift : 1;
  const int scale_rows = T::kNvfp4Scales ? T::kScaleRows : group_rows;
  const uint32_t bytes = T::kActBytes + T::kWeightBytes +
                         (has_scales ? scale_rows * T::kScaleRowBytes : 0) +
                         (has_zeros ? group_rows * T::kCols : 0);
  for (int stage = work.first_stage; stage < work.last_stage; ++stage) {
    barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
    if (elect_one()) {
      const uint32_t full = shared.full(ring.stage);
      barrier_arrive_expecting(full, bytes);
      ptx::tensor_copy_5d(shared.weights(ring.stage), maps.weights, stage * T::kUnits * 2,
                          work.col / kStripCols, full);
#pragma unroll
      for (int slab = 0; slab < T::kSlabs; ++slab) {
        ptx::tensor_copy(shared.activations(ring.stage) + slab * T::kSlabBytes, maps.activations,
                         stage * T::kStageK + slab * 64, work.row, full);
      }
      const int group = group_of_stage<T>(params, stage);
      if (has_scales)
        ptx::tensor_copy(shared.scales(ring.stage), maps.scales, work.col, group, full);
      if (has_zeros) ptx::tensor_copy(shared.zeros(ring.stage), maps.zeros, work.col, group, full);
    }
    __syncwarp();
    ring.advance();
  }
}

// A consumer thread's place. layout.h deals the 32 columns of a unit to the lane's quad, g, and to
// four tiles: 8 (g >> 1) + (g & 1) + 2 tile. Rows g and g + 8 of a warp's sixteen in an m64 block
// are two such tiles of one unit. A warp with two blocks owns a unit, tiles 0 and 1 in the first
// block. A warp with one block owns half a unit: tiles 0 and 1 or 2 and 3, changing every four
// columns, so that the 8-byte loads of two such warps take all banks by turns.
template <class T>
struct WgmmaLane {
  int col;  // the first of the 4 kBlocks neighbouring columns it shares with the lane four on
  // Where in stage 0 its words (for each load of a unit), scales and zero points begin.
  uint32_t weights[T::kWordRows];
  uint32_t scales;
  uint32_t zeros;
  uint32_t shift;       // for Widen, in natural order of K
  uint32_t selector;    // picks the lane's column of a pair, twice
  uint32_t group_rows;  // a stage's row of scales for each unit, a byte each

  __device__ __forceinline__ WgmmaLane(int thread, const WgmmaShared<T>& shared,
                                       const WgmmaParams& params) {
    const int g = thread % 32 / 4, t = thread % 4;
    const int unit_col = T::kBlocks == 2 ? thread / 32 : thread / 64;  // of the tile's eight
    const int first_tile = T::kBlocks == 2 ? 0 : 2 * ((thread / 32 ^ g >> 1) & 1);
    col = kUnitCols * unit_col + 8 * (g >> 1) + 2 * first_tile;
    // The tensor copy has laid out rows of 128 bytes (two g of a half; of 8-bit units the halves by
    // turns) and swizzled their 16-byte chunks, so that neither the four g nor the two halves that
    // lanes read at once meet in a bank.
#pragma unroll
    for (int i = 0; i < T::kWordRows; ++i) {
      const int chunk = T::kOrdered ? t : i;
      const int half = T::kOrdered ? i : t >> 1;
      const int row = is_8bit(T::kFormat) ? half + 2 * (g >> 1) : g >> 1;
      const int swizzle = is_8bit(T::kFormat) ? row : row + 4 * (unit_col & 1);
      weights[i] = shared.weights(0) + (unit_col >> 1) * T::kStripBytes +
                   (unit_col & 1) * T::kUnitBytes + row * 128 +
                   (((g & 1) * 4 + chunk) ^ swizzle) * 16 + first_tile * 4;
      asm volatile("" : "+r"(weights[i]));
    }
    scales = shared.scales(0) + (T::kNvfp4Scales ? unit_col * 128 + g * 8 + first_tile * 2 +
                                                       (T::kOrdered ? t / 2 * 64 : 0)
                                                 : col * 2);
    zeros = shared.zeros(0) + unit_col * kUnitCols + g * 4 + first_tile;
    shift = Widen<T::kAct, T::kFormat>::shift(t);
    selector = g & 1 ? 0x3232 : 0x1010;
    group_rows = 0;  // units to a row of scales: a power of two, 2^25 where there is one row
    if constexpr (!T::kNvfp4Scales) {
#pragma unroll
      for (int unit = 1; unit < T::kUnits; ++unit)
        group_rows |= (unit >> (params.group_shift - 5)) << (8 * unit);
    }
    // Kept in registers: left alone, the compiler computes them again in every turn, which costs
    // as many instructions as the work.
    asm volatile("" : "+r"(scales), "+r"(shift));
    if constexpr (!T::kNvfp4Scales) asm volatile("" : "+r"(selector), "+r"(group_rows));
  }
};

// A fragments of one turn: [k16 step][m64 block][register].
template <class T>
using WgmmaFragments = uint32_t[T::kTurnSteps][T::kBlocks][4];

// A lane's neighbouring words in shared memory: four with two blocks, two with one.
template <int kWords>
__device__ __forceinline__ void load_words(uint32_t (&words)[kWords], uint32_t address) {
  static_assert(kWords == 1 || kWords == 2 || kWords == 4);
  if constexpr (kWords == 4) {
    const uint4 loaded = load_shared_16(address);
    words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
  } else if constexpr (kWords == 2) {
    const uint2 loaded = load_shared_8(address);
    words[0] = loaded.x, words[1] = loaded.y;
  } else {
    words[0] = load_shared_4(address);
  }
}

// One unit as it comes from shared memory, this lane's part.
template <class T>
struct WgmmaUnit {
  static constexpr int kScaleWords = T::kNvfp4Scales ? T::kBlocks : 2 * T::kBlocks;
  // In natural order of K the words of the quad's lanes t = 0 .. 3, of which this lane uses pair t;
  // else its own (8-bit: both halves), all four pairs.
  uint32_t words[T::kWordRows][T::kLaneTiles];
  uint32_t zeros;  // a byte per tile
  // Of the 4 kBlocks columns from lane.col, two to a word; NVFP4: of the lane's tiles, per 16 rows.
  // In the lanes' order of K all rows of a lane are in one half of the unit.
  static constexpr int kScaleHalves = T::kNvfp4Scales && !T::kOrdered ? 2 : 1;
  uint32_t scales[kScaleHalves][kScaleWords];

  __device__ __forceinline__ void load(const WgmmaParams& params, const WgmmaLane<T>& lane,
                                       int stage, int unit) {
    const uint32_t source = stage * T::kWeightBytes + unit * 2 * T::kUnitBytes;
#pragma unroll
    for (int i = 0; i < T::kWordRows; ++i) load_words(words[i], lane.weights[i] + source);
    if constexpr (T::kNvfp4Scales) {
#pragma unroll
      for (int half = 0; half < kScaleHalves; ++half) {
        load_words(scales[half],
                   lane.scales + stage * T::kScaleBytes + unit * 2 * T::kScaleRowBytes + half * 64);
      }
    } else {
      const uint32_t row = unit == 0 ? 0 : __byte_perm(lane.group_rows, 0, 0x4440 + unit);
      if constexpr (T::kHasZeros) {
        zeros = 0x08080808u;
        if (params.zeros) {
          const uint32_t source = lane.zeros + stage * T::kZeroBytes + row * T::kCols;
          zeros = T::kBlocks == 2 ? load_shared_4(source) : load_shared_2(source);
        }
      }
      if (params.grouped)
        load_words(scales[0], lane.scales + stage * T::kScaleBytes + row * T::kScaleRowBytes);
    }
  }

  // Widens the unit into two k16 steps of fragments.
  __device__ __forceinline__ void widen(uint32_t (*fragments)[T::kBlocks][4],
                                        const WgmmaParams& params, const WgmmaLane<T>& lane) const {
    using W = Widen<T::kAct, T::kFormat>;
#pragma unroll
    for (int tile = 0; tile < T::kLaneTiles; ++tile) {
      const uint32_t offset = T::kHasZeros ? W::offset(zeros, tile) : 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // the fragments' pairs along K: two to a k16 step
        const uint32_t word = words[T::kOrdered ? i * T::kWordRows / 4 : i][tile];
        fragments[i >> 1][tile >> 1][2 * (i & 1) + (tile & 1)] =
            W::widen(word, T::kOrdered ? W::shift(i) : lane.shift, offset);
      }
    }
    if (!T::kNvfp4Scales && !params.grouped) return;
#pragma unroll
    for (int tile = 0; tile < T::kLaneTiles; ++tile) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        uint32_t scale;
        if constexpr (T::kNvfp4Scales)
          scale = __byte_perm(scales[step * kScaleHalves / 2][tile >> 1], 0,
                              tile & 1 ? 0x3232 : 0x1010);
        else
          scale = __byte_perm(scales[0][tile], 0, lane.selector);
        // fp16 fragments hold e4m3 values * 2^-8. Scale and factor together, or small products
        // would be rounded as subnormals.
        if constexpr (T::kFormat == WeightFormat::kE4M3 && T::kAct == DType::kFloat16)
          scale = multiply2<T::kAct>(scale, 0x5c005c00u);
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          uint32_t& fragment = fragments[step][tile >> 1][2 * pair + (tile & 1)];
          fragment = multiply2<T::kAct>(fragment, scale);
        }
      }
    }
  }
};

template <class T>
using WgmmaSums = float[T::kBlocks][T::kTokens / 2];  // [m64 block][element]

// Multiplies a stretch of K into `sums`, and leaves all its stages to the producer.
template <class T>
__device__ __forceinline__ void consume(WgmmaSums<T>& sums, const WgmmaParams& params,
                                        const WgmmaLane<T>& lane, const WgmmaWork& work,
                                        const WgmmaShared<T>& shared, WgmmaRing<T>& ring) {
  const bool elected = threadIdx.x % 32 == 0;
  WgmmaFragments<T> fragments[2];
  WgmmaUnit<T> loaded[T::kTurnUnits];  // always one turn ahead of the MMA
  const auto load_turn = [&](int stage, int turn) {
#pragma unroll
    for (int unit = 0; unit < T::kTurnUnits; ++unit)
      loaded[unit].load(params, lane, stage, turn * T::kTurnUnits + unit);
  };
  uint32_t previous = 0;
  barrier_wait(shared.full(ring.stage), ring.parity);
  load_turn(ring.stage, 0);
  for (int stage = work.first_stage; stage < work.last_stage; ++stage) {
    const int current = ring.stage;
    const uint64_t tokens = ptx::swizzled_operand(shared.activations(current));
#pragma unroll
    for (int turn = 0; turn < T::kTurns; ++turn) {
      WgmmaFragments<T>& now = fragments[turn & 1];
#pragma unroll
      for (int unit = 0; unit < T::kTurnUnits; ++unit)
        loaded[unit].widen(&now[2 * unit], params, lane);
      if (turn + 1 < T::kTurns) load_turn(current, turn + 1);
      ptx::mma_fence();
#pragma unroll
      for (int step = 0; step < T::kTurnSteps; ++step) {
        const int k16 = turn * T::kTurnSteps + step;
        const uint64_t operand = tokens + ((k16 / 4 * T::kSlabBytes + k16 % 4 * 32) >> 4);
#pragma unroll
        for (int block = 0; block < T::kBlocks; ++block)
          ptx::mma_async<T::kAct, T::kTokens>(sums[block], now[step][block], operand);
      }
      ptx::mma_commit();
      if (turn + 1 == T::kTurns) {
        ring.advance();
        if (stage + 1 < work.last_stage) {
          barrier_wait(shared.full(ring.stage), ring.parity);
          load_turn(ring.stage, 0);
        }
      }
      // All but this turn's MMA are done: the other fragments are free, and so is the stage before.
      ptx::mma_wait<1>();
      if (turn == 0 && stage != work.first_stage && elected) barrier_arrive(previous);
    }
    previous = shared.empty(current);
  }
  ptx::mma_wait<0>();
  if (elected) barrier_arrive(previous);
#pragma unroll
  for (int block = 0; block < T::kBlocks; ++block)
#pragma unroll
    for (int i = 0; i < T::kTokens / 2; ++i) asm volatile("" : "+f"(sums[block][i])::"memory");
}

// A thread holds, of each eight tokens, two for its columns, every other one; its neighbour four
// lanes on has those between. They swap so that each has all 4 kBlocks of one token: token 8 j +
// token_of_lane(), columns from lane.col.
__device__ __forceinline__ bool owns_odd_columns() { return threadIdx.x & 4; }
__device__ __forceinline__ int token_of_lane() {
  return 2 * (threadIdx.x % 4) + owns_odd_columns();
}
template <class T>
__device__ __forceinline__ void gather_columns(float (&values)[4 * T::kBlocks],
                                               const WgmmaSums<T>& sums, int j) {
  const bool odd = owns_odd_columns();
#pragma unroll
  for (int tile = 0; tile < T::kLaneTiles; ++tile) {
    const float first = sums[tile >> 1][4 * j + 2 * (tile & 1)];
    const float second = sums[tile >> 1][4 * j + 2 * (tile & 1) + 1];
    const float mine = odd ? second : first;
    const float other = __shfl_xor_sync(0xffffffffu, odd ? first : second, 4);
    values[2 * tile] = odd ? other : mine;
    values[2 * tile + 1] = odd ? mine : other;
  }
}

// Scales, bias and rounding of four or eight neighbouring columns, and their way out.
template <DType kOut, int kCount>
struct WgmmaColumns {
  float scale[kCount];
  float bias[kCount];
  int col;

  __device__ __forceinline__ WgmmaColumns(const WgmmaParams& params, int first) : col(first) {
    const bool scaled = !params.grouped && col < params.n_pad;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      float2 pair = {1.0f, 1.0f};
      if (scaled) {
        pair = unpack2<kOut>(
            __ldg(reinterpret_cast<const uint32_t*>(params.scales + int64_t{2} * col) + i));
      }
      scale[2 * i] = pair.x * params.factor;
      scale[2 * i + 1] = pair.y * params.factor;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      bias[i] = 0.0f;
      if (params.bias != nullptr && col + i < params.n) {
        const uint32_t word =
            __ldg(reinterpret_cast<const unsigned short*>(params.bias + int64_t{2} * (col + i)));
        bias[i] = unpack2<kOut>(word).x;
      }
    }
  }

  __device__ __forceinline__ void store(const WgmmaParams& params, int row,
                                        const float (&sums)[kCount]) const {
    if (row >= params.m || col >= params.n) return;
    uint32_t words[kCount / 2];
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      words[i] = pack2<kOut>(sums[2 * i] * scale[2 * i] + bias[2 * i],
                             sums[2 * i + 1] * scale[2 * i + 1] + bias[2 * i + 1]);
    }
    char* target = params.c + (static_cast<int64_t>(row) * params.n + col) * 2;
    if (params.n % 8 == 0) {  // rows start on 16 bytes, and end on a whole eight of columns
      if constexpr (kCount == 8)
        *reinterpret_cast<uint4*>(target) = uint4{words[0], words[1], words[2], words[3]};
      else
        *reinterpret_cast<uint2*>(target) = uint2{words[0], words[1]};
      return;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (col + i < params.n)
        reinterpret_cast<uint16_t*>(target)[i] =
            static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
    }
  }
};

// Lays a part's sums out in the memory of the stages, which no copy and no MMA uses any more.
template <class T>
__device__ __forceinline__ void lay_out_sums(const WgmmaSums<T>& sums, const WgmmaLane<T>& lane,
                                             const WgmmaShared<T>& shared) {
  sync_named<T::kConsumerThreads, 1>();  // the other warpgroups have read their stages too
#pragma unroll
  for (int j = 0; j < T::kTokens / 8; ++j) {
    float values[4 * T::kBlocks];
    gather_columns<T>(values, sums, j);
    const uint32_t target = shared.base + ((8 * j + token_of_lane()) * T::kSumRow + lane.col) * 4;
#pragma unroll
    for (int i = 0; i < T::kBlocks; ++i) {
      store_shared_16(target + 16 * i,
                      {values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]});
    }
  }
}

// From there to the workspace, for the kernel that adds the parts (reduce.cu).
template <class T>
__device__ __forceinline__ void write_sums(const WgmmaParams& params, const WgmmaWork& work,
                                           const WgmmaShared<T>& shared) {
  sync_named<T::kConsumerThreads, 1>();
  constexpr int kPerRow = T::kCols / 4;
  const int rows = params.m - work.row < T::kTokens ? params.m - work.row : T::kTokens;
  uint4* const target = reinterpret_cast<uint4*>(params.partials) +
                        static_cast<int64_t>(blockIdx.x) * T::kTokens * kPerRow;
#pragma unroll 4
  for (int i = threadIdx.x; i < rows * kPerRow; i += T::kConsumerThreads) {
    target[i] = load_shared_16(shared.base + (i / kPerRow * T::kSumRow + i % kPerRow * 4) * 4);
  }
}

// Adds the partial sums of the cluster's blocks, in the order of K, for this block's share of the
// rows, and writes these. Remote loads: the blocks' sending each other sums was slower.
template <class T>
__device__ __forceinline__ void add_partial_sums(const WgmmaParams& params, const WgmmaWork& work,
                                                 const WgmmaShared<T>& shared, int thread,
                                                 int rank) {
  constexpr int kThreadsPerRow = T::kCols / 8;
  const int rows = params.m - work.row < T::kTokens ? params.m - work.row : T::kTokens;
  const int share = (rows + params.schedule.parts - 1) / params.schedule.parts;
  const int end = (rank + 1) * share < rows ? (rank + 1) * share : rows;
  const int col = thread % kThreadsPerRow * 8;
  const WgmmaColumns<T::kAct, 8> columns(params, work.col + col);
  // Whatever is read here is stored, so no load is still under way when this block says it is done.
  const int begin = columns.col < params.n ? rank * share + thread / kThreadsPerRow : end;
  for (int row = begin; row < end; row += T::kConsumerThreads / kThreadsPerRow) {
    const uint32_t source = shared.base + (row * T::kSumRow + col) * 4;
    float sums[8] = {};
#pragma unroll 4
    for (int block = 0; block < params.schedule.parts; ++block) {
      const uint32_t there = ptx::cluster_address(source, block);
      const float4 low = ptx::load_cluster_16(there), high = ptx::load_cluster_16(there + 16);
      sums[0] += low.x, sums[1] += low.y, sums[2] += low.z, sums[3] += low.w;
      sums[4] += high.x, sums[5] += high.y, sums[6] += high.z, sums[7] += high.w;
    }
    columns.store(params, work.row + row, sums);
  }
}

// With whole tiles, blocks take them by turns; with parts there is a block for each, and with
// `clustered` those of a tile are a cluster.
template <class Gate, class T>
__global__ void __launch_bounds__(T::kThreads, 1)
    marlin_wgmma_kernel(const __grid_constant__ WgmmaMaps maps,
                        const __grid_constant__ WgmmaParams params) {
  if constexpr (!Gate::kDeviceCode || !kTargetHasWgmma) {
    guard_trap();
    return;
  } else {
    extern __shared__ unsigned char wgmma_shared[];
    const WgmmaShared<T> shared = {(shared_address(wgmma_shared) + T::kAlignment - 1) /
                                   T::kAlignment * T::kAlignment};
    const Schedule& schedule = params.schedule;
    const int items = schedule.blocks();
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < T::kStages; ++stage) {
        barrier_init(shared.full(stage), 1);
        barrier_init(shared.empty(stage), 4 * T::kConsumers);  // one arrival per warp
      }
      barrier_init_done();
    }
    // Weights of the first stages into L2, while the kernels before this one end: nothing that they
    // could write is read.
    if (threadIdx.x / 32 == 4 * T::kConsumers && elect_one()) {
      ptx::prefetch_tensor_map(maps.activations);
      ptx::prefetch_tensor_map(maps.weights);
      const WgmmaWork work(schedule, blockIdx.x, T::kTokens, T::kCols);
      for (int i = 0; i < T::kStages && work.first_stage + i < work.last_stage; ++i) {
        ptx::tensor_prefetch_5d(maps.weights, (work.first_stage + i) * T::kUnits * 2,
                                work.col / kStripCols);
        if (T::kNvfp4Scales || params.grouped)
          ptx::tensor_prefetch(maps.scales, work.col,
                               group_of_stage<T>(params, work.first_stage + i));
      }
    }
    __syncthreads();
    allow_dependent_launch();
    wait_for_prior_kernels();
    WgmmaRing<T> ring;

    if (threadIdx.x >= T::kConsumerThreads) {
      ptx::give_up_registers<T::kProducerRegisters>();
      if (threadIdx.x / 32 == 4 * T::kConsumers) {
        for (int item = blockIdx.x; item < items; item += gridDim.x) {
          produce<T>(maps, params, {schedule, item, T::kTokens, T::kCols}, shared, ring);
        }
      }
      __syncwarp();
      if (params.clustered) {  // the consumers' two barriers are the cluster's
        ptx::cluster_arrive<false>();
        ptx::cluster_wait();
        ptx::cluster_arrive<false>();
        ptx::cluster_wait();
      }
    } else {
      ptx::take_registers<T::kConsumerRegisters>();
      const WgmmaLane<T> lane(threadIdx.x, shared, params);
      for (int item = blockIdx.x; item < items; item += gridDim.x) {
        const WgmmaWork work(schedule, item, T::kTokens, T::kCols);
        WgmmaSums<T> sums;
#pragma unroll
        for (int block = 0; block < T::kBlocks; ++block)
#pragma unroll
          for (int i = 0; i < T::kTokens / 2; ++i) sums[block][i] = 0.0f;
        consume<T>(sums, params, lane, work, shared, ring);
        if (schedule.parts > 1) {
          lay_out_sums<T>(sums, lane, shared);
          if (params.clustered) {
            ptx::cluster_arrive<true>();
            ptx::cluster_wait();
            add_partial_sums<T>(params, work, shared, threadIdx.x, ptx::cluster_rank());
            __syncwarp();
            ptx::cluster_arrive<false>();  // no block may leave while others read its sums
            ptx::cluster_wait();
          } else {
            write_sums<T>(params, work, shared);
          }
        } else {
          const WgmmaColumns<T::kAct, 4 * T::kBlocks> columns(params, work.col + lane.col);
#pragma unroll
          for (int j = 0; j < T::kTokens / 8; ++j) {
            float values[4 * T::kBlocks];
            gather_columns<T>(values, sums, j);
            columns.store(params, work.row + 8 * j + token_of_lane(), values);
          }
        }
      }
    }
  }
}

}  // namespace kernelpkg::marlin
