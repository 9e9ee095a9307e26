package vm

// Boots is for tests of another package.
var Boots = boots
