// The orders in which the gates of a GRU lie in arrays: the only place where they are written out.

#pragma once

namespace gruflax {

// Keras' order, z | r | n: that of the columns of weights, biases and their gradients, and of the
// dropout masks where each gate has its own. The candidate n is the last, for it depends on r: the
// gates before it are the first kCandidateGate of them.
enum Gate { kUpdateGate, kResetGate, kCandidateGate, kGates };

// The order of what is known of a sample, h_n | z | r | n: in its record, in the gates that are
// kept for the backward pass, and in the panels of biases. h_n is what the reset gate r multiplies,
// h R_n + c_n, if the reset comes after the product, else r * h. In the backward pass the
// cotangents take these places.
//
// The state is multiplied for h_n, z and r, the inputs for z, r and n. In this order both are three
// slots side by side, and so one product with a panel of three gates serves all of them.
enum Slot { kStateN, kZ, kR, kN, kSlots };

// The slot that belongs to a gate's product with the inputs, and to its product with the state.
constexpr Slot kInputSlot[kGates] = {kZ, kR, kN};
constexpr Slot kStateSlot[kGates] = {kZ, kR, kStateN};

// The gates of the state's three slots, from the first slot on.
constexpr Gate kStateGate[kGates] = {kCandidateGate, kUpdateGate, kResetGate};

static_assert(kInputSlot[kUpdateGate] == kZ && kInputSlot[kCandidateGate] == kN,
              "the inputs' slots begin with kZ and are in Keras' order");
static_assert(kStateSlot[kStateGate[0]] == 0 && kStateSlot[kStateGate[1]] == 1 &&
                  kStateSlot[kStateGate[2]] == 2,
              "one table is the inverse of the other");

}  // namespace gruflax
