// Package released holds tests only: of the module's testdata, with the built command and the kernel.
//
//   - Packs, split packs and manifests of every released format version mount over HTTP, and what the kernel shows
//     is what was recorded when they were made.
//   - An image of every kind that pack and mount take becomes a pack that shows the same tree.
//   - Profiles of every released version are read, analyzed and packed with.
//   - testdata/README.md lists every file in testdata, and the test that reads it.
//
// No content is compared with Go code of ours: testdata/list.sh lists a directory with find and sha256sum, as it
// listed the tree that the images were made of. It is also another process that reads the mounts.
package released
