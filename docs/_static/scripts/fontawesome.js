// In place of the theme's file: 1.5 MB that would draw once more the icons which its font has drawn.
