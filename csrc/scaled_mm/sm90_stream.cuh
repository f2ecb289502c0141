// The kernel of 9.0 for few rows of a, which takes as long as reading the weight does.
//
// What keeps a device from reading at full speed is mostly that tiles of a fixed size do not come
// out even on its multiprocessors. Here every block takes an equal share: as many rows of the
// weight as it takes to give each block one tile (or as few rounds as its accumulators allow), and,
// where that would be too narrow, a stretch of K, the blocks of a cluster adding up through
// distributed shared memory in a fixed order. No workspace, no second kernel.
//
// wgmma computes c^T = b^T a^T: 64 rows of the weight by kTokens rows of a. One warp keeps a ring
// of stages full by tensor copies; two warpgroups multiply, each its half of the tile's groups of
// 64 rows, or where there is but one group, every other unit of K. A tile's rows need not be a
// multiple of 64: what the MMA reads beyond them lands in rows that nobody stores.
#pragma once

#include "common/async_copy.cuh"
#include "common/pipeline.cuh"
#include "common/shared_memory.cuh"
#include "scaled_mm/collective.cuh"
#include "scaled_mm/sm90_stream.h"
#include "scaled_mm/sm90_wgmma.cuh"

namespace kernelpkg {

template <class ElementAct, Scales kScales, int kTokens>
struct Sm90Stream {
  using Gate = gates::scaled_mm_sm90;
  using Params = StreamParams;
  static constexpr int kThreads = kStreamThreads;
  static constexpr int kMinBlocks = 2;
  static constexpr size_t kSharedMemory = kStreamShared;
  static constexpr bool kBlocks = kScales == Scales::kBlock;
  static constexpr int kConsumers = kThreads - 32;
  static constexpr int kSums = kTokens / 2;  // accumulators of a thread in 64 rows
  static constexpr int kPitch = stream_pitch(kTokens);
  static constexpr uint32_t kRowBytes = kScaleBlock;  // a unit of K in one row

  static size_t workspace_bytes(const ScaledMmArgs&, const ScaledMmDevice&) { return 0; }

  static Status launch(const char* name, const void* kernel, const ScaledMmArgs& args,
                       const ScaledMmDevice&) {
    return stream_launch(name, kernel, kTokens, args);
  }

  // A block's place and its shared memory.
  struct Block {
    const Params& params;
    uint32_t ring, scale_ring, barriers;
    int rank;        // within its cluster
    int row0;        // the tile's first row of the weight
    int begin, end;  // units of K

    __device__ __forceinline__ Block(const Params& p, const char* shared_memory) : params(p) {
      ring = shared_address(shared_memory);
      barriers = ring + p.shared - kStreamBarrierBytes;
      scale_ring = ring + stream_ring_bytes(p.shared, kTokens, kBlocks);
      rank = p.parts > 1 ? ptx::cluster_rank() : 0;
      row0 = static_cast<int>(blockIdx.x) / p.parts * p.rows;
      const int units = (p.k + kScaleBlock - 1) / kScaleBlock;
      begin = static_cast<int>(int64_t{units} * rank / p.parts);
      end = static_cast<int>(int64_t{units} * (rank + 1) / p.parts);
    }
    __device__ __forceinline__ uint32_t unit_bytes() const {
      return (params.rows + kTokens) * kRowBytes;
    }
    __device__ __forceinline__ uint32_t weight(int stage, int unit) const {
      return ring + (stage * params.units + unit) * unit_bytes();
    }
    __device__ __forceinline__ uint32_t activations(int stage, int unit) const {
      return weight(stage, unit) + params.rows * kRowBytes;
    }
    __device__ __forceinline__ uint32_t scales(int stage, int unit) const {
      return scale_ring + (stage * kStreamMaxUnits + unit) * stream_scale_bytes(kTokens);
    }
    __device__ __forceinline__ uint32_t full(int stage) const { return barriers + 16 * stage; }
    __device__ __forceinline__ uint32_t empty(int stage) const { return full(stage) + 8; }
  };

  struct Ring {
    int stages;
    int stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void advance() {
      if (++stage == stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  };

  static __device__ __forceinline__ void run(const Params& params, const char* shared_memory) {
    const Block block(params, shared_memory);
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < params.stages; ++stage) {
        barrier_init(block.full(stage), kBlocks ? 1 + 32 : 1);
        barrier_init(block.empty(stage), kConsumers / 32);
      }
      barrier_init_done();
    }
    __syncthreads();
    allow_dependent_launch();
    if (threadIdx.x >= kConsumers) {
      produce(block);
      if (params.parts > 1) meet();
    } else if (params.rows <= 64) {
      consume<1, true>(block);
    } else if (kTokens == 64 || params.rows <= 128) {
      consume<1, false>(block);
    } else {
      if constexpr (kTokens < 64) consume<2, false>(block);
    }
    // A neighbour may still be reading this block's sums.
    if (params.parts > 1) meet();
  }

  // All threads of the cluster, and what they wrote.
  static __device__ __forceinline__ void meet() {
    ptx::cluster_arrive<true>();
    ptx::cluster_wait();
  }

  // One warp; all its lanes go through the motions, one issues.
  static __device__ __forceinline__ void produce(const Block& block) {
    const Params& p = block.params;
    if (elect_one()) {
      ptx::prefetch_tensor_map(p.a);
      ptx::prefetch_tensor_map(p.b);
    }
    __syncwarp();
    wait_for_prior_kernels();
    Ring ring{p.stages};
    for (int unit = block.begin; unit < block.end; unit += p.units) {
      const int count = min(p.units, block.end - unit);
      barrier_wait(block.empty(ring.stage), ring.parity ^ 1);
      const uint32_t full = block.full(ring.stage);
      if (elect_one()) {
        barrier_arrive_expecting(full, count * block.unit_bytes());
        for (int i = 0; i < count; ++i) {
          const int k = (unit + i) * kScaleBlock;
          ptx::tensor_copy(block.weight(ring.stage, i), p.b, k, block.row0, full);
          ptx::tensor_copy(block.activations(ring.stage, i), p.a, k, 0, full);
        }
      }
      __syncwarp();
      if constexpr (kBlocks) {
        for (int i = 0; i < count; ++i) copy_scales(block, unit + i, block.scales(ring.stage, i));
        barrier_arrive_after_copies(full);
      }
      ring.advance();
    }
  }

  // The scales of a unit: token by token, then of the blocks of rows from the tile's first on.
  static __device__ __forceinline__ void copy_scales(const Block& block, int unit, uint32_t to) {
    const Params& p = block.params;
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int token = lane; token < kTokens; token += 32) {
      const int m = min(token, p.m - 1);
      copy_async_4(to + token * 4, p.a_scales + m * p.a_scale_row + unit * p.a_scale_block);
    }
    if (lane < kStreamRowBlocks) {
      const int n = min(block.row0 / kScaleBlock + lane, (p.n - 1) / kScaleBlock);
      copy_async_4(to + (kTokens + lane) * 4,
                   p.b_scales + n * p.b_scale_column + unit * p.b_scale_block);
    }
  }

  template <int kGroups>
  using Tile = float[kGroups][kSums];

  // MMAs that add to the same sums wait for each other, some 65 cycles each, so neighbouring steps
  // of K add to different ones, as far as registers last.
  template <int kGroups>
  static constexpr int kSets = kTokens == 64              ? (kBlocks ? 1 : 2)
                               : kTokens == 32 && kBlocks ? 2 / kGroups
                                                          : 4 / kGroups;
  template <int kGroups>
  using Sets = Tile<kGroups>[kSets<kGroups>];

  // This thread's warpgroup, which the compiler sees to be its neighbours' too, and the first of
  // its groups of rows.
  static __device__ __forceinline__ int team() {
    return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  }
  template <int kGroups, bool kSplitK>
  static __device__ __forceinline__ int first_group() {
    return kSplitK ? 0 : team() * kGroups;
  }

  // Starts the MMAs of one unit, which overwrite the sums or add to them.
  template <int kGroups, bool kAdd>
  static __device__ __forceinline__ void multiply(uint32_t weight, uint32_t activations,
                                                  Sets<kGroups>& sums) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        ptx::mma_async_fp8<E4M3, ElementAct, kTokens>(
            sums[step % kSets<kGroups>][group],
            ptx::swizzled_operand(weight + group * 64 * kRowBytes + 32 * step),
            ptx::swizzled_operand(activations + 32 * step), kAdd || step >= kSets<kGroups>);
      }
    }
    ptx::mma_commit();
  }

  // One element of all sets.
  template <int kGroups>
  static __device__ __forceinline__ float total(const Sets<kGroups>& sums, int group, int i) {
    float all = sums[0][group][i];
#pragma unroll
    for (int set = 1; set < kSets<kGroups>; ++set) all += sums[set][group][i];
    return all;
  }

  // A thread's rows in a group are first_row() and 8 further; its tokens 8 j + first_token() and
  // the next.
  static __device__ __forceinline__ int first_row() {
    return static_cast<int>(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4);
  }
  static __device__ __forceinline__ int first_token() {
    return static_cast<int>(threadIdx.x % 4 * 2);
  }

  static __device__ __forceinline__ void release(const Block& block, int stage) {
    if (threadIdx.x % 32 == 0) barrier_arrive(block.empty(stage));
  }

  template <int kGroups>
  static __device__ __forceinline__ void clear(Tile<kGroups>& sums) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        sums[group][i] = 0.0f;
        asm volatile("" : "+f"(sums[group][i]));  // before the MMAs, and not between them
      }
    }
  }

  // Sums over this block's stretch of K; scales factor out.
  template <int kGroups, bool kSplitK>
  static __device__ __forceinline__ void add_up(const Block& block, Ring& ring,
                                                Tile<kGroups>& sums) {
    const uint32_t rows = first_group<kGroups, kSplitK>() * 64 * kRowBytes;
    Sets<kGroups> sets;
#pragma unroll
    for (int set = 0; set < kSets<kGroups>; ++set) clear<kGroups>(sets[set]);
    int before = -1;
    for (int unit = block.begin; unit < block.end; unit += block.params.units) {
      const int count = min(block.params.units, block.end - unit);
      barrier_wait(block.full(ring.stage), ring.parity);
      for (int i = kSplitK ? team() : 0; i < count; i += kSplitK ? 2 : 1) {
        ptx::mma_fence();
        multiply<kGroups, true>(block.weight(ring.stage, i) + rows,
                                block.activations(ring.stage, i), sets);
        ptx::mma_wait<1>();
      }
      // All but the last unit's MMAs are done: the stage before is.
      if (before >= 0) release(block, before);
      before = ring.stage;
      ring.advance();
    }
    ptx::mma_wait<0>();
    release(block, before);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[group][i] = total<kGroups>(sets, group, i);
    }
  }

  // The scales of tokens 8 j + first_token() and the next.
  static __device__ __forceinline__ void load_two(uint32_t scales, int j, float (&out)[2]) {
    const uint2 two = load_shared_8(scales + (8 * j + first_token()) * 4);
    out[0] = __uint_as_float(two.x);
    out[1] = __uint_as_float(two.y);
  }

  // The same with a factor per unit of K: each unit's sums are scaled on their way into fp32.
  template <int kGroups, bool kSplitK>
  static __device__ __forceinline__ void add_up_blocks(const Block& block, Ring& ring,
                                                       Tile<kGroups>& sums) {
    const Params& p = block.params;
    const uint32_t rows = first_group<kGroups, kSplitK>() * 64 * kRowBytes;
    clear<kGroups>(sums);
    Sets<kGroups> part;
    // Where in a unit's scales a thread finds those of its rows.
    uint32_t of_rows[kGroups][2];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row =
            block.row0 + 64 * (first_group<kGroups, kSplitK>() + group) + first_row() + 8 * half;
        const int of = min(row / kScaleBlock - block.row0 / kScaleBlock, kStreamRowBlocks - 1);
        of_rows[group][half] = (kTokens + of) * 4;
      }
    }
    for (int unit = block.begin; unit < block.end; unit += p.units) {
      const int count = min(p.units, block.end - unit);
      barrier_wait(block.full(ring.stage), ring.parity);
      for (int i = kSplitK ? team() : 0; i < count; i += kSplitK ? 2 : 1) {
        ptx::mma_fence();
        multiply<kGroups, false>(block.weight(ring.stage, i) + rows,
                                 block.activations(ring.stage, i), part);
        const uint32_t scales = block.scales(ring.stage, i);
        float of_row[kGroups][2];
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
#pragma unroll
          for (int half = 0; half < 2; ++half)
            of_row[group][half] = __uint_as_float(load_shared_4(scales + of_rows[group][half]));
        }
        float of_tokens[kTokens / 8][2];
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j) load_two(scales, j, of_tokens[j]);
        ptx::mma_wait<0>();
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
          for (int group = 0; group < kGroups; ++group) {
#pragma unroll
            for (int i = 4 * j; i < 4 * j + 4; ++i) {
              const float factor = of_row[group][i / 2 % 2] * of_tokens[j][i % 2];
              sums[group][i] = fmaf(factor, total<kGroups>(part, group, i), sums[group][i]);
            }
          }
        }
      }
      release(block, ring.stage);
      ring.advance();
    }
  }

  template <int kGroups, bool kSplitK>
  static __device__ __forceinline__ void consume(const Block& block) {
    wait_for_prior_kernels();
    Ring ring{block.params.stages};
    Tile<kGroups> sums;
    if constexpr (kBlocks) {
      add_up_blocks<kGroups, kSplitK>(block, ring, sums);
    } else {
      prefetch_scales(block);
      add_up<kGroups, kSplitK>(block, ring, sums);
    }
    sync_named<kConsumers, 1>();  // all warps are done with the ring
    keep<kGroups, kSplitK>(block, sums);
    sync_named<kConsumers, 1>();
    if (block.params.parts > 1) meet();
    store<kSplitK>(block);
  }

  // Brings what the epilogue will ask for into L2.
  static __device__ __forceinline__ void prefetch_scales(const Block& block) {
    const Params& p = block.params;
    const int n = block.row0 + static_cast<int>(threadIdx.x) * 32;  // of 128 bytes of scales each
    if (static_cast<int>(threadIdx.x) * 32 >= p.rows || n >= p.n) return;
    if (p.b_scale_column != 0) asm volatile("prefetch.global.L2 [%0];" ::"l"(p.b_scales + n));
    if (p.bias != nullptr) asm volatile("prefetch.global.L2 [%0];" ::"l"(p.bias + n));
  }

  // Sums to shared memory, token by token; where K is split, each warpgroup's apart.
  template <int kGroups, bool kSplitK>
  static __device__ __forceinline__ void keep(const Block& block, const Tile<kGroups>& sums) {
    const uint32_t to = block.ring + (kSplitK ? team() * kTokens * kPitch * 4 : 0);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const int row = 64 * (first_group<kGroups, kSplitK>() + group) + first_row();
#pragma unroll
      for (int j = 0; j < kSums; ++j) {
        const int r = row + j / 2 % 2 * 8, token = j / 4 * 8 + first_token() + j % 2;
        if (r < block.params.rows && token < block.params.m) {
          asm volatile("st.shared.f32 [%0], %1;" ::"r"(to + (token * kPitch + r) * 4),
                       "f"(sums[group][j])
                       : "memory");
        }
      }
    }
  }

  // Adds up the parts, scales, converts, stores: eight columns of a row of c at a time, which the
  // blocks of a cluster share out among themselves.
  template <bool kSplitK>
  static __device__ __forceinline__ void store(const Block& block) {
    const Params& p = block.params;
    const int vectors = p.rows / 8;
    const int stride = p.parts * kConsumers;
    for (int i = block.rank * kConsumers + static_cast<int>(threadIdx.x); i < p.m * vectors;
         i += stride) {
      const int token = i / vectors, row = (i - token * vectors) * 8, n = block.row0 + row;
      if (n >= p.n) continue;
      const uint32_t address = block.ring + (token * kPitch + row) * 4;
      float sums[8] = {};
      for (int part = 0; part < p.parts; ++part) {
        const uint32_t first = p.parts > 1 ? ptx::cluster_address(address, part) : address;
#pragma unroll
        for (int team = 0; team < (kSplitK ? 2 : 1); ++team) {
          const uint32_t from = first + team * kTokens * kPitch * 4;
          const float4 low = ptx::load_cluster_16(from), high = ptx::load_cluster_16(from + 16);
          const float eight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
          for (int j = 0; j < 8; ++j) sums[j] += eight[j];
        }
      }
      const float a_scale = kBlocks ? 1.0f : __ldg(p.a_scales + token * p.a_scale_row);
      cutlass::Array<float, 8> out;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int column = min(n + j, p.n - 1);
        const float b_scale = kBlocks ? 1.0f : __ldg(p.b_scales + column * p.b_scale_column);
        const float bias = p.bias == nullptr ? 0.0f : from_bits16(__ldg(p.bias + column), p.half);
        out[j] = fmaf(a_scale, b_scale * sums[j], bias);
      }
      const auto bits = to_bits16(out, p.half);
      *reinterpret_cast<uint4*>(p.c + token * p.ldc + n) = reinterpret_cast<const uint4&>(bits);
    }
  }
};

}  // namespace kernelpkg
