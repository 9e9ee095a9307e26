//go:build !race

package testrig

// Raced tells whether the race detector is on: everything takes some ten times as long.
const Raced = false
